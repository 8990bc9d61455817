// Kafka's own Java client as a load, as load_confluent.py says. Run from its source:
//   java -cp 'LIB/*' Load.java produce BOOTSTRAP TOPIC PARTITIONS RATE
//   java -cp 'LIB/*' Load.java consume BOOTSTRAP TOPIC GROUP

import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Load {
    static final String NAME = "java";
    static volatile boolean ended;

    static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    static void untilInputEnds() {
        try {
            System.in.transferTo(java.io.OutputStream.nullOutputStream());
        } catch (IOException alsoTheEnd) {
            // Nobody is there any more.
        }
        ended = true;
    }

    static void produce(String bootstrap, String topic, int partitions, long rate) {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap);
        var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer());
        // Due times are a schedule that nothing delays.
        long start = System.nanoTime();
        for (long number = 0; !ended;) {
            long due = start + number * 1_000_000_000 / rate;
            long wait = due - System.nanoTime();
            if (wait > 0) {
                LockSupport.parkNanos(wait);
                continue;
            }
            String value = NAME + ":" + number;
            var record = new ProducerRecord<String, String>(topic, (int) (number % partitions), null, value);
            producer.send(record, (sent, error) -> {
                long now = System.nanoTime();
                String place = error == null ? sent.partition() + " " + sent.offset() : "";
                say(error == null ? "ack " + due + " " + now + " " + place + " " + value : "error " + error);
            });
            number++;
        }
        producer.close();
    }

    static void consume(String bootstrap, String topic, String group) {
        Map<String, Object> config = Map.of("bootstrap.servers", bootstrap, "group.id", group,
                "auto.offset.reset", "earliest");
        var text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<>(config, text, text)) {
            consumer.subscribe(List.of(topic));
            while (!ended) {
                for (var record : consumer.poll(Duration.ofMillis(100))) {
                    String place = record.partition() + " " + record.offset();
                    say("read " + System.nanoTime() + " " + place + " " + record.value());
                }
            }
        }
    }

    public static void main(String[] args) {
        var input = new Thread(Load::untilInputEnds);
        input.setDaemon(true);
        input.start();
        try {
            if (args[0].equals("produce")) {
                produce(args[1], args[2], Integer.parseInt(args[3]), Long.parseLong(args[4]));
            } else {
                consume(args[1], args[2], args[3]);
            }
        } catch (RuntimeException error) {
            say("error " + error);
            throw error;
        }
    }
}
