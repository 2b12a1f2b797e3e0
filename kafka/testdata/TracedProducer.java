// Produces a record for each line of stdin: the baggage as name=value,name=value, the
// key and the value, separated by tabs. It knows nothing of headers: whoever runs it
// has the OpenTelemetry Java agent write them.

import io.opentelemetry.api.baggage.Baggage;
import io.opentelemetry.api.baggage.BaggageBuilder;
import io.opentelemetry.context.Scope;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class TracedProducer {
    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                String[] parts = line.split("\t", -1);
                BaggageBuilder baggage = Baggage.builder();
                for (String member : parts[0].split(",")) {
                    int at = member.indexOf('=');
                    if (at > 0) {
                        baggage.put(member.substring(0, at), member.substring(at + 1));
                    }
                }
                try (Scope scope = baggage.build().makeCurrent()) {
                    producer.send(new ProducerRecord<>(args[1], parts[1], parts[2])).get();
                }
            }
        }
    }
}
