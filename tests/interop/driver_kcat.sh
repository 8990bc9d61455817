#!/usr/bin/env bash
# kcat against the cluster at BOOTSTRAP.
set -euo pipefail

bootstrap=${BOOTSTRAP:-127.0.0.1:9092}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check NAME FUNCTION: runs a function in a shell of its own and counts what came of it.
check() {
  local name=$1 function=$2
  # Not as a condition, in which -e would not count.
  set +e
  (set -euo pipefail; "$function") >"$work/out" 2>&1
  local status=$?
  set -e
  if [ "$status" = 0 ]; then
    echo "ok   kcat: $name"
    passed=$((passed + 1))
  else
    echo "FAIL kcat: $name"
    sed 's/^/     /' "$work/out"
    failed=$((failed + 1))
  fi
}

topic() {
  echo "kcat-$1-$$-$RANDOM"
}

kc() {
  timeout 60 kcat -b "$bootstrap" -X topic.metadata.refresh.interval.ms=500 "$@"
}

metadata() {
  kc -L -J | grep -q '"brokers":\[{'
}

codecs() {
  local name codec
  name=$(topic codecs)
  for codec in none gzip snappy lz4 zstd; do
    seq 1 500 | sed "s/^/$codec:value /" | tee -a "$work/sent" |
      kc -P -t "$name" -p 0 -K : -z "$codec" -X acks=all -X enable.idempotence=true
  done
  kc -C -t "$name" -p 0 -o beginning -e -q -K : >"$work/read"
  diff "$work/sent" "$work/read"
}

headers() {
  local name found
  name=$(topic headers)
  echo value | kc -P -t "$name" -p 0 -H one=1 -H two=2
  found=$(kc -C -t "$name" -p 0 -o beginning -e -q -f '%o %h %s')
  [ "$found" = "0 one=1,two=2 value" ] || { echo "found: $found"; return 1; }
}

offsets() {
  local name found
  name=$(topic offsets)
  seq 0 99 | kc -P -t "$name" -p 0
  found=$(kc -C -t "$name" -p 0 -o 90 -c 3 -e -q | tr '\n' ' ')
  [ "$found" = "90 91 92 " ] || { echo "from an offset: $found"; return 1; }
  found=$(kc -C -t "$name" -p 0 -o -2 -e -q | tr '\n' ' ')
  [ "$found" = "98 99 " ] || { echo "from the end: $found"; return 1; }
  found=$(kc -Q -t "$name:0:-1")
  [[ $found == *"offset 100"* ]] || { echo "query of the end: $found"; return 1; }
  found=$(kc -C -t "$name" -p 0 -o s@1000 -c 1 -e -q)
  [ "$found" = 0 ] || { echo "from a timestamp: $found"; return 1; }
}

group() {
  local name
  name=$(topic group)
  seq 1 1000 | kc -P -t "$name" -p 0
  kc -G "$name" -X auto.offset.reset=earliest -c 600 -q "$name" >"$work/first"
  kc -G "$name" -X auto.offset.reset=earliest -c 400 -q "$name" >"$work/second"
  seq 1 1000 | diff - <(cat "$work/first" "$work/second")
}

check 'lists metadata' metadata
check 'produces with every codec and reads the same back' codecs
check 'keeps headers' headers
check 'reads from offsets, from the end and from a timestamp' offsets
check 'resumes in a group where it committed' group
echo "kcat: $passed passed, $failed failed"
[ "$failed" = 0 ]
