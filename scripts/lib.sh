# shellcheck shell=bash
# What the scripts share. Sourced, not run.
#
# Whatever takes long is kept in a cache outside of the clone, so that a second run, also from
# another clone, is quick: RocksDB built once, cargo's target directory, a Python environment, npm
# packages and Kafka's jars.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${OTTLA_CACHE:-$HOME/.cache/ottla}
KAFKA_VERSION=4.3.1
ROCKSDB_LIB=librocksdb.a
mkdir -p "$CACHE"

say() {
  printf '\n== %s\n' "$*"
}

have() {
  command -v "$1" >/dev/null 2>&1
}

# Runs a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    echo "need root or sudo for: $*" >&2
    return 1
  fi
}

# apt_install PACKAGE…: installs those Debian packages that are missing.
apt_install() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  if [ "${#missing[@]}" = 0 ]; then return; fi
  if ! have apt-get; then
    echo "not a Debian system; install what provides: ${missing[*]}" >&2
    return 1
  fi
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    "${missing[@]}"
}

# What the build needs. Rust itself is expected, or installed through rustup by its owner.
need_build_tools() {
  if [ -f "$HOME/.cargo/env" ] && ! have cargo; then
    # shellcheck source=/dev/null
    . "$HOME/.cargo/env"
  fi
  have cargo || { echo 'Rust is missing; see https://rustup.rs' >&2; return 1; }
  apt_install build-essential clang libclang-dev pkg-config
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
  need_rocksdb
}

# Builds RocksDB once for all profiles and clones: 10 to 20 minutes on two cores. The crate's own
# build makes the library; afterwards it is linked from the cache.
need_rocksdb() {
  local version lib
  version=$(awk '/^name = "librocksdb-sys"/ { getline; gsub(/version = |"/, ""); print }' \
    "$ROOT/Cargo.lock")
  lib=$CACHE/rocksdb
  if [ -f "$lib/version" ] && [ "$(cat "$lib/version")" != "$version" ]; then
    rm -f "$lib/$ROCKSDB_LIB"
  fi
  if [ ! -f "$lib/$ROCKSDB_LIB" ]; then
    say "building RocksDB $version (once, for every later build)"
    mkdir -p "$lib"
    env -u ROCKSDB_LIB_DIR CARGO_TARGET_DIR="$CACHE/rocksdb-build" \
      cargo build --release --locked --manifest-path "$ROOT/Cargo.toml" -p librocksdb-sys
    find "$CACHE/rocksdb-build/release/build" -name "$ROCKSDB_LIB" -exec cp {} "$lib/" \;
    rm -rf "$CACHE/rocksdb-build"
    [ -f "$lib/$ROCKSDB_LIB" ] || { echo "the build made no $ROCKSDB_LIB" >&2; return 1; }
  fi
  echo "$version" >"$lib/version"
  export ROCKSDB_LIB_DIR=$lib ROCKSDB_STATIC=1
}

need_kcat() {
  apt_install kcat
}

# A Python environment with the clients; PYTHON is its interpreter.
need_python_clients() {
  local venv=$CACHE/venv
  have python3 || return 1
  if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv" 2>/dev/null || {
      apt_install python3-venv && python3 -m venv --clear "$venv"
    } || return 1
  fi
  PYTHON=$venv/bin/python
  "$PYTHON" -c 'import confluent_kafka, aiokafka, cramjam' 2>/dev/null ||
    "$PYTHON" -m pip install -q --disable-pip-version-check \
      'confluent-kafka==2.16.1' 'aiokafka==0.14.0' 'cramjam==2.14.0' || return 1
}

# npm packages; NODE_PATH is where node finds them.
need_node_clients() {
  local npm=$CACHE/npm
  have node && have npm || return 1
  mkdir -p "$npm"
  if [ ! -d "$npm/node_modules/zstd-codec" ]; then
    (cd "$npm" && npm install --silent --no-audit --no-fund --no-save \
      kafkajs@2.2.4 snappyjs@0.7.0 lz4js@0.2.0 zstd-codec@0.1.5) || return 1
  fi
  export NODE_PATH=$npm/node_modules KAFKAJS_NO_PARTITIONER_WARNING=1
}

# Kafka's jars; KAFKA_LIB is where they lie. OTTLA_KAFKA_LIB names ones that are there already.
need_kafka_jars() {
  KAFKA_LIB=${OTTLA_KAFKA_LIB:-$CACHE/kafka-$KAFKA_VERSION}
  export KAFKA_LIB
  have java || return 1
  if [ -n "$(find "$KAFKA_LIB" -name "kafka-clients-$KAFKA_VERSION.jar" 2>/dev/null)" ]; then
    return
  fi
  have mvn || return 1
  local pom part
  pom=$(mktemp -d)
  # Of this run alone, since another may be fetching the same.
  part=$(mktemp -d "$KAFKA_LIB.XXXXXX")
  cat >"$pom/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>ottla</groupId><artifactId>interop</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
      <version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId>
      <version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
  mvn -q -f "$pom/pom.xml" dependency:copy-dependencies -DoutputDirectory="$part" ||
    { rm -rf "$pom" "$part"; return 1; }
  rm -rf "$pom" "$KAFKA_LIB"
  mv -T "$part" "$KAFKA_LIB" || rm -rf "$part"
}

# start_node BINARY DIRECTORY [NODES]: starts `ottla dev` on free ports and waits until it serves.
# Sets NODE_PID and BOOTSTRAP.
start_node() {
  local binary=$1 dir=$2 nodes=${3:-1} waited=0
  mkdir -p "$dir"
  # The node's shell may get to open it only after the first look into it.
  : >"$dir.out"
  "$binary" dev --nodes "$nodes" --dir "$dir" --kafka-port "$(free_port "$nodes")" \
    --cluster-port "$(free_port "$nodes")" --http-port "$(free_port "$nodes")" \
    >"$dir.out" 2>"$dir.err" &
  NODE_PID=$!
  while ! grep -q '^ready: bootstrap servers ' "$dir.out"; do
    if ! kill -0 "$NODE_PID" 2>/dev/null || [ "$waited" -ge 300 ]; then
      echo 'the node did not start:' >&2
      tail -n 30 "$dir.err" >&2
      return 1
    fi
    waited=$((waited + 1))
    sleep 0.1
  done
  BOOTSTRAP=$(sed -n 's/^ready: bootstrap servers //p' "$dir.out" | head -n 1)
  export BOOTSTRAP
}

# Ends the node that start_node started.
stop_node() {
  if [ -z "${NODE_PID:-}" ]; then return; fi
  kill "$NODE_PID" 2>/dev/null || true
  wait "$NODE_PID" 2>/dev/null || true
  NODE_PID=
}

# configure_kafka NODES DIRECTORY: settings for that many nodes of Apache Kafka on free ports, each
# broker and controller, in DIRECTORY/kafka-N.properties, and formats their directories beside them.
# Beyond what makes them a cluster, all is Kafka's default. Sets KAFKA, their bootstrap servers.
configure_kafka() {
  local nodes=$1 dir=$2 first controller voters='' node cluster_id properties
  local tool=(java -cp "$KAFKA_LIB/*" kafka.tools.StorageTool)
  first=$(free_port "$nodes") controller=$(free_port "$nodes") KAFKA=
  cluster_id=$("${tool[@]}" random-uuid)
  for node in $(seq "$nodes"); do
    voters+=${voters:+,}$node@127.0.0.1:$((controller + node - 1))
    KAFKA+=${KAFKA:+,}127.0.0.1:$((first + node - 1))
  done
  for node in $(seq "$nodes"); do
    properties=$dir/kafka-$node.properties
    cat >"$properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$((first + node - 1)),CONTROLLER://127.0.0.1:$((controller + node - 1))
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$dir/kafka-$node
offsets.topic.replication.factor=$nodes
PROPERTIES
    "${tool[@]}" format -t "$cluster_id" -c "$properties" >"$dir/kafka.out" 2>&1
  done
}

# kafka_command HEAP PROPERTIES: the words that run a node of Kafka, with the settings of its own
# start script but for the heap.
kafka_command() {
  echo java -server "-Xms$1" "-Xmx$1" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -XX:InitiatingHeapOccupancyPercent=35 -cp "$KAFKA_LIB/*" kafka.Kafka "$2"
}

# free_port [COUNT]: the first of so many ports in a row that nothing listens on now, below the
# range that the system hands out by itself.
free_port() {
  local port next
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    for ((next = port; next < port + ${1:-1}; next++)); do
      if (: <"/dev/tcp/127.0.0.1/$next") 2>/dev/null; then continue 2; fi
    done
    echo "$port"
    return
  done
}
