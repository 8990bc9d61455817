#!/usr/bin/env bash
# Kafka's own command-line tools, from the jars in KAFKA_LIB, against the cluster at BOOTSTRAP. With
# DATA_DIR, the directory of an `ottla dev`, also what DumpLogSegments makes of its files.
set -euo pipefail

bootstrap=${BOOTSTRAP:-127.0.0.1:9092}
replicas=${REPLICATION_FACTOR:-1}
lib=${KAFKA_LIB:?set KAFKA_LIB to a directory with the jars of kafka_2.13 and kafka-tools}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
topic="tools-$$-$RANDOM"
group="$topic-group"
compacted="$topic-compacted"

# check NAME FUNCTION: runs a function in a shell of its own and counts what came of it.
check() {
  local name=$1 function=$2
  # Not as a condition, in which -e would not count.
  set +e
  (set -euo pipefail; "$function") >"$work/out" 2>&1
  local status=$?
  set -e
  if [ "$status" = 0 ]; then
    echo "ok   kafka-tools: $name"
    passed=$((passed + 1))
  else
    echo "FAIL kafka-tools: $name"
    tail -n 30 "$work/out" | sed 's/^/     /'
    failed=$((failed + 1))
  fi
}

tool() {
  local class=org.apache.kafka.tools.$1
  # The one that has not moved there from the broker's jar.
  if [ "$1" = ConfigCommand ]; then class=kafka.admin.ConfigCommand; fi
  shift
  timeout 90 java -XX:TieredStopAtLevel=1 -Xshare:auto -cp "$lib/*" "$class" "$@"
}

# A JVM takes longer to start than a change takes to reach every node, so nothing here waits for one.
#
# has TEXT: fails, and shows what came, unless standard input holds this text.
has() {
  cat >"$work/has"
  grep -q -- "$1" "$work/has" || { echo "no \"$1\" in:"; cat "$work/has"; return 1; }
}

topics() {
  tool TopicCommand --bootstrap-server "$bootstrap" "$@"
}

groups() {
  tool consumer.group.ConsumerGroupCommand --bootstrap-server "$bootstrap" "$@"
}

configs() {
  tool ConfigCommand --bootstrap-server "$bootstrap" "$@"
}

create_topic() {
  topics --create --topic "$topic" --partitions 2 --replication-factor "$replicas" --config retention.ms=86400000
  topics --list | has "$topic"
  topics --describe --topic "$topic" | has 'PartitionCount: 2'
  topics --describe --topic "$topic" | has 'retention.ms=86400000'
}

grow_topic() {
  topics --alter --topic "$topic" --partitions 3
  topics --describe --topic "$topic" | has 'PartitionCount: 3'
}

produce() {
  tool VerifiableProducer --bootstrap-server "$bootstrap" --topic "$topic" --max-messages 5000 \
    --acks -1 >"$work/produced"
  grep -c '"name":"producer_send_success"' "$work/produced" | has '^5000$'
  has '"acked":5000' <"$work/produced"
}

consume() {
  tool VerifiableConsumer --bootstrap-server "$bootstrap" --topic "$topic" --group-id "$group" \
    --max-messages 5000 --reset-policy earliest >"$work/consumed"
  has '"name":"offsets_committed"' <"$work/consumed"
  has '"name":"shutdown_complete"' <"$work/consumed"
}

describe_group() {
  groups --list | has "$group"
  # Topic, partition, current offset, log end offset and lag: nothing is left to read.
  groups --describe --group "$group" >"$work/group"
  awk -v topic="$topic" '$2 == topic { read += $4; end += $5; lag += $6 }
    END { print read, end, lag; exit !(read == 5000 && end == 5000 && lag == 0) }' "$work/group"
  groups --describe --group "$group" --state | has 'Empty'
}

reset_group() {
  groups --reset-offsets --group "$group" --topic "$topic" --to-earliest --execute | has "$topic"
  groups --describe --group "$group" >"$work/group"
  awk -v topic="$topic" '$2 == topic { lag += $6 } END { print lag; exit lag != 5000 }' "$work/group"
}

delete_group() {
  groups --delete --group "$group"
  groups --list >"$work/groups"
  if grep -q "$group" "$work/groups"; then return 1; fi
}

offsets() {
  tool GetOffsetShell --bootstrap-server "$bootstrap" --topic "$topic" --time latest >"$work/ends"
  awk -F: '{ sum += $3 } END { print sum; exit sum != 5000 }' "$work/ends"
  tool GetOffsetShell --bootstrap-server "$bootstrap" --topic "$topic" --time earliest |
    has "$topic:0:0"
}

topic_configs() {
  local entity=(--entity-type topics --entity-name "$topic")
  configs "${entity[@]}" --alter --add-config 'cleanup.policy=[compact,delete],segment.ms=3600000'
  configs "${entity[@]}" --describe | has 'cleanup.policy=compact,delete'
  configs "${entity[@]}" --alter --delete-config segment.ms
  configs "${entity[@]}" --describe --all | has 'segment.ms=604800000'
  if configs "${entity[@]}" --alter --add-config segment.ms=soon; then return 1; fi
}

broker_configs() {
  local entity=(--entity-type brokers --entity-default)
  configs "${entity[@]}" --alter --add-config log.cleaner.backoff.ms=20000
  configs "${entity[@]}" --describe | has 'log.cleaner.backoff.ms=20000'
  configs "${entity[@]}" --alter --delete-config log.cleaner.backoff.ms
}

versions() {
  tool BrokerApiVersionsCommand --bootstrap-server "$bootstrap" >"$work/versions"
  has 'Produce(0)' <"$work/versions"
  has 'DescribeTopicPartitions(75)' <"$work/versions"
}

quorum() {
  tool MetadataQuorumCommand --bootstrap-server "$bootstrap" describe --status | has 'LeaderId'
  tool MetadataQuorumCommand --bootstrap-server "$bootstrap" describe --replication | has 'Leader'
}

# A voter becomes an observer and a voter again. To add one, the tool reads which directory it is from
# the meta.properties of its data directory, and wants a file that looks like a controller's.
quorum_members() {
  local quorum=(tool MetadataQuorumCommand --bootstrap-server "$bootstrap") node directory
  "${quorum[@]}" describe --replication >"$work/quorum"
  read -r node directory < <(awk '$NF == "Follower" { print $1, $2; exit }' "$work/quorum")
  local remove=(remove-controller --controller-id "$node" --controller-directory-id "$directory")
  "${quorum[@]}" "${remove[@]}"
  "${quorum[@]}" describe --replication | has "^$node.*Observer"
  if "${quorum[@]}" "${remove[@]}"; then return 1; fi
  printf '%s\n' process.roles=controller "node.id=$node" "log.dirs=$DATA_DIR/node-$node" \
    controller.listener.names=CONTROLLER listeners=CONTROLLER://127.0.0.1:9192 >"$work/controller"
  tool MetadataQuorumCommand --bootstrap-server "$bootstrap" --command-config "$work/controller" \
    add-controller | has "Added controller $node"
  "${quorum[@]}" describe --replication | has "^$node.*Follower"
}

# The tool asks the level of metadata.version for Kafka's name of it, and changes one for real.
features() {
  local elr=eligible.leader.replicas.version
  local feature=(tool FeatureCommand --bootstrap-server "$bootstrap")
  "${feature[@]}" describe >"$work/features"
  has 'Feature: metadata.version.*FinalizedVersionLevel: 4.3-IV0' <"$work/features"
  has 'Feature: ottla.metadata.version' <"$work/features"
  "${feature[@]}" downgrade --feature "$elr=0" --dry-run
  "${feature[@]}" downgrade --feature "$elr=0"
  "${feature[@]}" describe | has "Feature: $elr.*FinalizedVersionLevel: 0"
  "${feature[@]}" upgrade --feature "$elr=1"
  "${feature[@]}" describe | has "Feature: $elr.*FinalizedVersionLevel: 1"
  if "${feature[@]}" upgrade --feature "$elr=9"; then return 1; fi
  if "${feature[@]}" downgrade --feature ottla.metadata.version=1 >"$work/downgrade" 2>&1; then return 1; fi
  has 'The metadata may hold records of the current level' <"$work/downgrade"
}

cluster() {
  tool ClusterTool cluster-id --bootstrap-server "$bootstrap" | has 'Cluster ID: '
  tool ClusterTool list-endpoints --bootstrap-server "$bootstrap" | has "${bootstrap##*:}"
  if tool ClusterTool unregister --bootstrap-server "$bootstrap" --id 4711 >"$work/gone" 2>&1; then
    return 1
  fi
  has 'not currently registered' <"$work/gone"
}

leader_election() {
  local elect=(tool LeaderElectionCommand --bootstrap-server "$bootstrap")
  "${elect[@]}" --election-type PREFERRED --all-topic-partitions
  "${elect[@]}" --election-type UNCLEAN --topic "$topic" --partition 0 |
    has 'Valid replica already elected'
}

# Reverses the order of the replicas, which any cluster can do at once.
reassignment() {
  local replicas plan=$work/plan.json
  local reassign=(tool reassign.ReassignPartitionsCommand --bootstrap-server "$bootstrap")
  replicas=$(tool TopicCommand --bootstrap-server "$bootstrap" --describe --topic "$topic" |
    sed -nE 's/.*Partition: 0\b.*Replicas: ([0-9,]+).*/\1/p' |
    tr ',' '\n' | tac | paste -sd, -)
  printf '{"version":1,"partitions":[{"topic":"%s","partition":0,"replicas":[%s]}]}\n' \
    "$topic" "$replicas" >"$plan"
  "${reassign[@]}" --reassignment-json-file "$plan" --execute |
    has "Successfully started partition reassignment for $topic-0"
  "${reassign[@]}" --list | has 'No partition reassignments found'
  "${reassign[@]}" --reassignment-json-file "$plan" --verify |
    has "Reassignment of partition $topic-0 is completed"
  "${reassign[@]}" --reassignment-json-file "$plan" --cancel |
    has 'None of the specified partition reassignments are active'
  sed -i 's/"replicas":\[/&4711,/' "$plan"
  if "${reassign[@]}" --reassignment-json-file "$plan" --execute >"$work/refused" 2>&1; then
    return 1
  fi
  has '4711' <"$work/refused"
}

# Moves 4 MB to a broker that has none of it: first so slowly that it can be looked at and cancelled.
throttled_move() {
  local moved=$topic-moved plan=$work/move.json from to
  local reassign=(tool reassign.ReassignPartitionsCommand --bootstrap-server "$bootstrap")
  # Nobody else shall move it meanwhile.
  configs --entity-type brokers --entity-default --alter --add-config ottla.balancer.enable=false
  topics --create --topic "$moved" --partitions 1 --replication-factor 1
  from=$(topics --describe --topic "$moved" | sed -nE 's/.*Partition: 0\b.*Replicas: ([0-9]+).*/\1/p')
  to=$(topics --describe --topic "$topic" |
    sed -nE 's/.*Partition: 0\b.*Replicas: ([0-9,]+).*/\1/p' | tr ',' '\n' | grep -vx "$from" | head -n 1)
  tool ProducerPerformance --topic "$moved" --num-records 4000 --record-size 1000 --throughput -1 \
    --bootstrap-server "$bootstrap"
  printf '{"version":1,"partitions":[{"topic":"%s","partition":0,"replicas":[%s]}]}\n' \
    "$moved" "$to" >"$plan"
  "${reassign[@]}" --reassignment-json-file "$plan" --execute --throttle 20000 >"$work/begun"
  has "Successfully started partition reassignment for $moved-0" <"$work/begun"
  has 'limit was set to 20000' <"$work/begun"
  "${reassign[@]}" --list | has "$moved-0: replicas: .*adding: $to"
  "${reassign[@]}" --reassignment-json-file "$plan" --verify |
    has "Reassignment of partition $moved-0 is still in progress"
  configs --entity-type brokers --entity-name "$to" --describe |
    has 'follower.replication.throttled.rate=20000'
  configs --entity-type topics --entity-name "$moved" --describe |
    has "follower.replication.throttled.replicas=0:$to"
  "${reassign[@]}" --reassignment-json-file "$plan" --cancel |
    has "Successfully cancelled partition reassignment for: $moved-0"
  "${reassign[@]}" --list | has 'No partition reassignments found'
  topics --describe --topic "$moved" | has "Replicas: $from"
  "${reassign[@]}" --reassignment-json-file "$plan" --execute --throttle 50000000 |
    has "Successfully started partition reassignment for $moved-0"
  for _ in 1 2 3 4 5; do
    "${reassign[@]}" --reassignment-json-file "$plan" --verify >"$work/verified"
    if grep -q 'is completed' "$work/verified"; then break; fi
  done
  has "Reassignment of partition $moved-0 is completed" <"$work/verified"
  has 'Clearing broker-level throttles' <"$work/verified"
  topics --describe --topic "$moved" | has "Replicas: $to"
  configs --entity-type brokers --entity-name "$to" --describe >"$work/left"
  configs --entity-type topics --entity-name "$moved" --describe >>"$work/left"
  if grep throttled "$work/left"; then return 1; fi
  topics --delete --topic "$moved"
  configs --entity-type brokers --entity-default --alter --delete-config ottla.balancer.enable
}

# Asks for the directory of the first replica, in a plan with log_dirs, which comes to the end at once
# where there is only one directory; else for another one of its broker.
directory_move() {
  local described plan=$work/dirs.json broker
  local reassign=(tool reassign.ReassignPartitionsCommand --bootstrap-server "$bootstrap")
  local replicas
  replicas=$(tool TopicCommand --bootstrap-server "$bootstrap" --describe --topic "$topic" |
    sed -nE 's/.*Partition: 0\b.*Replicas: ([0-9,]+).*/\1/p')
  broker=${replicas%%,*}
  described=$(tool LogDirsCommand --bootstrap-server "$bootstrap" --describe \
    --broker-list "$broker" | grep '^{')
  python3 - "$topic" "$replicas" "$described" >"$plan" <<'PLAN'
import json, sys

topic, replicas, described = sys.argv[1], sys.argv[2].split(","), json.loads(sys.argv[3])
directories = described["brokers"][0]["logDirs"]
holds = lambda one: any(p["partition"] == f"{topic}-0" for p in one["partitions"])
wanted = [one["logDir"] for one in directories if not holds(one)] or [directories[0]["logDir"]]
moves = [wanted[0]] + ["any"] * (len(replicas) - 1)
one = {"topic": topic, "partition": 0, "replicas": [int(r) for r in replicas], "log_dirs": moves}
print(json.dumps({"version": 1, "partitions": [one]}))
PLAN
  "${reassign[@]}" --reassignment-json-file "$plan" --execute |
    has "Successfully started moving log directory"
  "${reassign[@]}" --reassignment-json-file "$plan" --verify >"$work/verified"
  has "Reassignment of replica $topic-0-$broker completed successfully" <"$work/verified"
  sed -i 's|"log_dirs": \["[^"]*"|"log_dirs": ["/nowhere"|' "$plan"
  if "${reassign[@]}" --reassignment-json-file "$plan" --execute >"$work/refused" 2>&1; then
    return 1
  fi
  has 'Failed to alter dir' <"$work/refused"
}

log_dirs() {
  tool LogDirsCommand --bootstrap-server "$bootstrap" --describe --topic-list "$topic" | has "$topic-0"
}

delete_records() {
  local partition
  # One that has records: the producer switches partitions so rarely that it may leave some out.
  partition=$(awk -F: '$3 > 0 { print $2; exit }' "$work/ends")
  printf '{"partitions":[{"topic":"%s","partition":%s,"offset":1}],"version":1}' "$topic" \
    "$partition" >"$work/records.json"
  configs --entity-type topics --entity-name "$topic" --alter --add-config cleanup.policy=delete
  tool DeleteRecordsCommand --bootstrap-server "$bootstrap" --offset-json-file "$work/records.json" |
    has 'low_watermark: 1'
}

performance() {
  tool ProducerPerformance --topic "$topic" --num-records 20000 --record-size 100 --throughput -1 \
    --producer-props "bootstrap.servers=$bootstrap" acks=all compression.type=lz4 |
    has '20000 records sent'
  tool ConsumerPerformance --bootstrap-server "$bootstrap" --topic "$topic" --messages 20000 \
    --timeout 30000
}

dump_segments() {
  local file files=0
  for file in "$DATA_DIR"/node-*/"$topic"-*/*.{log,index,timeindex,snapshot}; do
    [ -e "$file" ] || continue
    files=$((files + 1))
    tool DumpLogSegments --deep-iteration --files "$file" >"$work/dump"
    if grep -iE 'mismatch|corrupt|invalid|exception|out of order|non-consecutive' "$work/dump" |
      grep -vE 'isvalid: true'; then
      echo "in $file"
      return 1
    fi
  done
  echo "$files files" | has '[1-9]'
  local offsets=("$DATA_DIR"/node-*/__consumer_offsets-*/*.log)
  for file in "${offsets[@]}"; do
    [ -s "$file" ] || continue
    tool DumpLogSegments --offsets-decoder --files "$file" >"$work/dump"
    if grep -iE 'exception|could not' "$work/dump"; then return 1; fi
  done
}

# A few keys over and over; each run begins a segment, as the one before is over a second old.
repeat_keys() {
  for _ in 1 2 3; do
    tool VerifiableProducer --bootstrap-server "$bootstrap" --topic "$compacted" \
      --max-messages 1000 --repeating-keys 10 --acks -1 | has '"acked":1000'
  done
}

# clean_replicas: how many nodes say that the topic is compacted up to its last segment.
clean_replicas() {
  awk -v topic="$compacted" '$1 == topic && $3 == 2000' \
    "$DATA_DIR"/node-*/cleaner-offset-checkpoint | wc -l
}

compact() {
  local brokers=(--entity-type brokers --entity-default) waited=0 status=0
  topics --create --topic "$compacted" --partitions 1 --replication-factor "$replicas" \
    --config cleanup.policy=compact --config segment.ms=500 --config min.cleanable.dirty.ratio=0.01
  configs "${brokers[@]}" --alter --add-config log.cleaner.backoff.ms=100
  repeat_keys
  until [ "$(clean_replicas)" = "$replicas" ]; do
    waited=$((waited + 1))
    if [ "$waited" -gt 300 ]; then
      cat "$DATA_DIR"/node-*/cleaner-offset-checkpoint
      status=1
      break
    fi
    sleep 0.1
  done
  configs "${brokers[@]}" --alter --delete-config log.cleaner.backoff.ms
  return "$status"
}

dump_compacted() {
  local file records=0
  for file in "$DATA_DIR"/node-*/"$compacted"-0/*.{log,index,timeindex,txnindex,snapshot}; do
    # A running node has not written the indexes of the segment that takes appends.
    [ -e "$file" ] || continue
    tool DumpLogSegments --deep-iteration --print-data-log --files "$file" >"$work/dump"
    # The tool remarks on offsets that are missing, as they must be here.
    if grep -iE 'mismatch|corrupt|invalid|exception|out of order' "$work/dump" |
      grep -vE 'isvalid: true'; then
      echo "in $file"
      return 1
    fi
    case $file in
      *.log) records=$((records + $(grep -c 'payload:' "$work/dump"))) ;;
      *.index | *.timeindex)
        tool DumpLogSegments --index-sanity-check --files "$file" |
          has 'passed sanity check\|is empty'
        ;;
    esac
  done
  # On each node the newest of each of ten keys, and the thousand of the segment that takes appends.
  echo "$records records are left" | has "^$((1010 * replicas)) "
}

delete_topic() {
  topics --delete --topic "$topic"
  if [ -n "${DATA_DIR:-}" ]; then topics --delete --topic "$compacted"; fi
  topics --list >"$work/topics"
  if grep -q "^$topic" "$work/topics"; then return 1; fi
}

check 'TopicCommand creates, lists and describes a topic' create_topic
check 'TopicCommand adds partitions' grow_topic
check 'VerifiableProducer produces' produce
check 'VerifiableConsumer consumes in a group' consume
check 'ConsumerGroupCommand lists and describes the group' describe_group
check 'ConsumerGroupCommand resets offsets' reset_group
check 'ConsumerGroupCommand deletes the group' delete_group
check 'GetOffsetShell lists offsets' offsets
check 'ConfigCommand alters and describes a topic' topic_configs
check 'ConfigCommand alters and describes all brokers' broker_configs
check 'BrokerApiVersionsCommand lists versions' versions
check 'MetadataQuorumCommand describes the quorum' quorum
if [ -n "${DATA_DIR:-}" ] && [ "$replicas" -gt 1 ]; then
  check 'MetadataQuorumCommand removes a voter and adds it' quorum_members
fi
check 'FeatureCommand describes and changes levels' features
check 'ClusterTool names the cluster and its endpoints, and unregisters' cluster
check 'LeaderElectionCommand elects' leader_election
check 'ReassignPartitionsCommand executes, verifies, lists and cancels' reassignment
if [ "$replicas" -gt 1 ]; then
  check 'ReassignPartitionsCommand moves a partition throttled, and takes it back' throttled_move
fi
check 'ReassignPartitionsCommand moves a replica to another log directory' directory_move
check 'LogDirsCommand describes the log directories' log_dirs
check 'DeleteRecordsCommand deletes records' delete_records
check 'ProducerPerformance and ConsumerPerformance run' performance
if [ -n "${DATA_DIR:-}" ]; then
  check 'DumpLogSegments reads every file of the topic' dump_segments
  check 'VerifiableProducer fills a topic that is compacted' compact
  check 'DumpLogSegments reads every file of a compacted topic' dump_compacted
fi
check 'TopicCommand deletes the topic' delete_topic
echo "kafka-tools: $passed passed, $failed failed"
[ "$failed" = 0 ]
