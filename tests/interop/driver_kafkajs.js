// kafkajs (pure JavaScript, only versions of the protocol without tagged fields) against the
// cluster at BOOTSTRAP.
'use strict'

const { randomUUID } = require('node:crypto')
const assert = require('node:assert/strict')
const {
  AssignerProtocol, CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel,
} = require('kafkajs')
const lz4 = require('lz4js')
const snappy = require('snappyjs')
const { ZstdCodec } = require('zstd-codec')

const replicas = Number(process.env.REPLICATION_FACTOR || 1)
const bootstrap = (process.env.BOOTSTRAP || '127.0.0.1:9092').split(',')
const kafka = new Kafka({ brokers: bootstrap, logLevel: logLevel.NOTHING })
const unique = prefix => `${prefix}-${randomUUID().slice(0, 12)}`
const open = []

// Java frames Snappy in its own way (xerial): a header of 16 bytes, then blocks with their lengths.
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00])
CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async encoder => Buffer.from(snappy.compress(encoder.buffer)),
  decompress: async buffer => {
    if (!buffer.subarray(0, 8).equals(XERIAL)) return Buffer.from(snappy.uncompress(buffer))
    const blocks = []
    for (let at = 16; at < buffer.length;) {
      const length = buffer.readUInt32BE(at)
      blocks.push(Buffer.from(snappy.uncompress(buffer.subarray(at + 4, at + 4 + length))))
      at += 4 + length
    }
    return Buffer.concat(blocks)
  },
})
// lz4js says that its blocks depend on each other, which Kafka refuses. A batch of these checks is
// one block, so the flag may be cleared; the third byte is the checksum of the two before it.
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => {
    const frame = Buffer.from(lz4.compress(encoder.buffer))
    frame.set([0x60, 0x70, 0x73], 4)
    return frame
  },
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})

async function addZstd() {
  const zstd = await new Promise(resolve => ZstdCodec.run(resolve))
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async encoder => Buffer.from(new zstd.Streaming().compress(encoder.buffer)),
    decompress: async buffer => Buffer.from(new zstd.Streaming().decompress(buffer)),
  })
}

async function until(condition, what, timeoutMs = 45_000) {
  const end = Date.now() + timeoutMs
  while (!await condition()) {
    assert(Date.now() < end, `not within ${timeoutMs} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

async function admin() {
  const client = kafka.admin()
  await client.connect()
  open.push(() => client.disconnect())
  return client
}

async function create(numPartitions = 1, config = {}) {
  const topic = unique('kafkajs')
  const configEntries = Object.entries(config).map(([name, value]) => ({ name, value }))
  const client = await admin()
  await client.createTopics({
    waitForLeaders: true,
    topics: [{ topic, numPartitions, replicationFactor: replicas, configEntries }],
  })
  return topic
}

async function produce(topic, messages, { idempotent = false, ...options } = {}) {
  const producer = kafka.producer({ idempotent, maxInFlightRequests: idempotent ? 1 : 5 })
  await producer.connect()
  open.push(() => producer.disconnect())
  return producer.send({ topic, acks: -1, messages, ...options })
}

async function consume(topic, groupId, onMessage, options = {}) {
  const consumer = kafka.consumer({
    groupId, sessionTimeout: 10_000, heartbeatInterval: 500, rebalanceTimeout: 15_000, ...options,
  })
  await consumer.connect()
  open.push(() => consumer.disconnect())
  await consumer.subscribe({ topic, fromBeginning: true })
  const joined = []
  consumer.on(consumer.events.GROUP_JOIN, event => joined.push(event.payload))
  await consumer.run({ autoCommit: false, eachMessage: async one => onMessage(one) })
  return { consumer, joined }
}

const checks = {
  'produces with every codec and reads the same back': async () => {
    const topic = await create()
    const wanted = []
    for (const [codec, compression] of Object.entries(CompressionTypes)) {
      const messages = Array.from({ length: 200 }, (_, n) => ({
        key: `${codec}-${n}`, value: `value ${n} `.repeat(40), headers: { h: '1' },
        timestamp: String(1_700_000_000_000 + n),
      }))
      await produce(topic, messages, { compression })
      wanted.push(...messages.map(one => one.value))
    }
    const found = []
    await consume(topic, unique('kafkajs-codecs'), one => found.push(one.message))
    await until(() => found.length === wanted.length, 'all messages')
    assert.deepEqual(found.map(one => one.value.toString()), wanted)
    assert.equal(found[5].headers.h.toString(), '1')
    assert.equal(found[5].timestamp, '1700000000005')
  },

  'produces idempotently': async () => {
    const topic = await create()
    await produce(topic, [{ value: 'a' }, { value: 'b' }], { idempotent: true })
    const client = await admin()
    assert.equal((await client.fetchTopicOffsets(topic))[0].high, '2')
  },

  'produces with acks 0, 1 and all': async () => {
    const topic = await create()
    for (const acks of [0, 1, -1]) await produce(topic, [{ value: 'v' }], { acks })
    const client = await admin()
    await until(async () => (await client.fetchTopicOffsets(topic))[0].high === '3', 'three records')
  },

  'rebalances when a second member joins and leaves': async () => {
    const topic = await create(4)
    const groupId = unique('kafkajs-rebalance')
    const held = one => (one.joined.at(-1)?.memberAssignment[topic] ?? []).length
    const first = await consume(topic, groupId, () => {})
    await until(() => held(first) === 4, 'all partitions for the first member')
    const second = await consume(topic, groupId, () => {})
    await until(() => held(first) === 2 && held(second) === 2, 'two partitions for each')
    const client = await admin()
    const { groups } = await client.describeGroups([groupId])
    assert.equal(groups[0].state, 'Stable')
    assert.equal(groups[0].members.length, 2)
    const member = AssignerProtocol.MemberAssignment.decode(groups[0].members[0].memberAssignment)
    assert.equal(member.assignment[topic].length, 2)
    await second.consumer.disconnect()
    await until(() => held(first) === 4, 'all partitions again')
  },

  'commits offsets with metadata and resumes there': async () => {
    const topic = await create()
    const groupId = unique('kafkajs-offsets')
    await produce(topic, Array.from({ length: 10 }, (_, n) => ({ value: String(n) })))
    const { consumer } = await consume(topic, groupId, () => {})
    const metadata = 'what I was doing'
    await until(() => consumer.commitOffsets([{ topic, partition: 0, offset: '6', metadata }])
      .then(() => true, () => false), 'a commit')
    await consumer.disconnect()
    const client = await admin()
    const [{ partitions }] = await client.fetchOffsets({ groupId, topics: [topic] })
    assert.deepEqual(partitions, [{ partition: 0, offset: '6', metadata }])
    const found = []
    await consume(topic, groupId, one => found.push(one.message.value.toString()))
    await until(() => found.length === 4, 'the rest')
    assert.deepEqual(found, ['6', '7', '8', '9'])
  },

  'seeks, also by timestamp': async () => {
    const topic = await create()
    await produce(topic, Array.from({ length: 100 }, (_, n) => ({
      value: String(n), timestamp: String(1_700_000_000_000 + n),
    })))
    const client = await admin()
    const [{ offset }] = await client.fetchTopicOffsetsByTimestamp(topic, 1_700_000_000_042)
    assert.equal(offset, '42')
    const found = []
    const group = unique('kafkajs-seek')
    const { consumer } = await consume(topic, group, one => found.push(one.message.offset))
    await until(() => found.length === 100, 'all messages')
    consumer.seek({ topic, partition: 0, offset })
    await until(() => found.length === 158, 'messages from the timestamp on')
    assert.equal(found[100], '42')
  },

  'alters configuration, adds partitions, deletes records, groups and topics': async () => {
    const topic = await create(1, { 'retention.ms': '123456' })
    const client = await admin()
    const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
    const value = async name => {
      const found = await client.describeConfigs({ includeSynonyms: true, resources: [resource] })
      return found.resources[0].configEntries.find(one => one.configName === name).configValue
    }
    assert.equal(await value('retention.ms'), '123456')
    await client.alterConfigs({
      resources: [{ ...resource, configEntries: [{ name: 'segment.ms', value: '60000' }] }],
    })
    // The replacement takes retention.ms away. A change may show a moment after its answer.
    await until(async () => await value('segment.ms') === '60000' &&
      await value('retention.ms') === '604800000', 'the new configuration')
    await client.createPartitions({ topicPartitions: [{ topic, count: 3 }] })
    await until(async () => (await client.fetchTopicMetadata({ topics: [topic] }))
      .topics[0].partitions.length === 3, 'three partitions')
    // A partition that was just added is in the metadata a moment before it has a leader.
    await until(() => client.fetchTopicOffsets(topic).then(() => true, () => false), 'leaders')
    await produce(topic, Array(5).fill({ value: 'v', partition: 0 }))
    await client.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] })
    const offsets = await client.fetchTopicOffsets(topic)
    assert.equal(offsets.find(one => one.partition === 0).low, '4')
    const groupId = unique('kafkajs-delete')
    await client.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: '5' }] })
    await client.deleteGroups([groupId])
    assert((await client.listTopics()).includes(topic))
    await client.deleteTopics({ topics: [topic] })
    await until(async () => !(await client.listTopics()).includes(topic), 'the topic gone')
  },

  'describes the cluster': async () => {
    const client = await admin()
    const found = await client.describeCluster()
    assert(found.clusterId && found.brokers.length >= 1 && found.controller !== null)
    assert(Array.isArray((await client.listGroups()).groups))
  },
}

async function main() {
  await addZstd()
  let failed = 0
  let passed = 0
  const chosen = Object.entries(checks).filter(([name]) => name.includes(process.argv[2] ?? ''))
  for (const [name, check] of chosen) {
    try {
      await check()
      passed += 1
      console.log(`ok   kafkajs: ${name}`)
    } catch (error) {
      failed += 1
      console.log(`FAIL kafkajs: ${name}: ${error.stack}`)
    }
    for (const close of open.splice(0).reverse()) await close().catch(() => {})
  }
  console.log(`kafkajs: ${passed} passed, ${failed} failed`)
  process.exit(failed ? 1 : 0)
}

main()
