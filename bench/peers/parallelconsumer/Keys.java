import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Runs Confluent's parallel consumer over a topic of one partition, in the order of keys, with
 * handlers that wait. It reads the topic several times in one process, so that all but the first
 * run are of compiled code, and prints what each came to, as JSON. The time is from the start of
 * the first handler to the end of the last.
 */
public class Keys {
  public static void main(String[] args) throws Exception {
    int i = 0;
    String brokers = args[i++], topic = args[i++], group = args[i++];
    long count = Long.parseLong(args[i++]);
    long waitMillis = Long.parseLong(args[i++]);
    int concurrency = Integer.parseInt(args[i++]);
    int batch = Integer.parseInt(args[i++]);
    int buffer = Integer.parseInt(args[i++]);
    CommitMode mode = CommitMode.valueOf(args[i++]);
    int runs = Integer.parseInt(args[i++]);
    for (int run = 0; run < runs; run++) {
      run(brokers, topic, group + "-" + run, count, waitMillis, concurrency, batch, buffer, mode);
    }
    System.exit(0);
  }

  static void run(String brokers, String topic, String group, long count, long waitMillis, int concurrency, int batch, int buffer, CommitMode mode)
      throws Exception {
    Properties p = new Properties();
    p.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
    p.put(ConsumerConfig.GROUP_ID_CONFIG, group);
    p.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    p.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
    p.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
    p.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "5000");
    KafkaConsumer<String, byte[]> consumer = new KafkaConsumer<>(p, new StringDeserializer(), new ByteArrayDeserializer());
    ParallelConsumerOptions.ParallelConsumerOptionsBuilder<String, byte[]> options =
        ParallelConsumerOptions.<String, byte[]>builder()
            .ordering(ProcessingOrder.KEY)
            .maxConcurrency(concurrency)
            .commitMode(mode)
            .consumer(consumer);
    if (batch > 1) {
      options.batchSize(batch);
    }
    if (buffer > 0) {
      options.messageBufferSize(buffer);
    }
    ParallelStreamProcessor<String, byte[]> processor = ParallelStreamProcessor.createEosStreamProcessor(options.build());
    LongAdder records = new LongAdder(), bytes = new LongAdder();
    AtomicLong first = new AtomicLong(), handled = new AtomicLong(), last = new AtomicLong(), disorder = new AtomicLong();
    ConcurrentHashMap<String, Long> done = new ConcurrentHashMap<>();
    CountDownLatch all = new CountDownLatch(1);
    processor.subscribe(List.of(topic));
    processor.poll(
        context -> {
          first.compareAndSet(0, System.nanoTime());
          for (ConsumerRecord<String, byte[]> r : context.getConsumerRecordsFlattened()) {
            if (waitMillis > 0) {
              try {
                Thread.sleep(waitMillis);
              } catch (InterruptedException e) {
                throw new RuntimeException(e);
              }
            }
            Long before = done.put(r.key(), r.offset());
            if (before != null && before >= r.offset()) {
              disorder.incrementAndGet();
            }
            records.increment();
            bytes.add(r.value().length);
            if (handled.incrementAndGet() == count) {
              last.set(System.nanoTime());
              all.countDown();
            }
          }
        });
    boolean ended = all.await(5, TimeUnit.MINUTES);
    processor.closeDontDrainFirst();
    System.out.printf("{\"Seconds\":%f,\"Records\":%d,\"Bytes\":%d,\"Disorder\":%d}%n",
        ended ? (last.get() - first.get()) / 1e9 : 0, records.sum(), bytes.sum(), disorder.get());
  }
}
