// Writes the JSON Schemas of Strimzi's custom resources, as Strimzi's own classes have them: strimzi.json
// is what this prints, in its `schemas`. The definitions themselves are on no package registry.
//
// With io.strimzi:api and what it depends on in libs (mvn dependency:copy-dependencies):
//
//   java -cp 'libs/*' StrimziSchema.java io.strimzi.api.kafka.model.kafka.Kafka \
//       io.strimzi.api.kafka.model.nodepool.KafkaNodePool \
//       io.strimzi.api.kafka.model.topic.KafkaTopic io.strimzi.api.kafka.model.user.KafkaUser

import com.fasterxml.jackson.databind.*;
import com.fasterxml.jackson.databind.introspect.*;
import com.fasterxml.jackson.databind.node.*;
import com.fasterxml.jackson.annotation.*;
import java.util.*;

public class StrimziSchema {
    static final ObjectMapper M = new ObjectMapper();
    static final Set<JavaType> open = new HashSet<>();

    public static void main(String[] args) throws Exception {
        ObjectNode all = M.createObjectNode();
        for (String name : args) {
            Class<?> c = Class.forName(name);
            ObjectNode s = of(M.constructType(c), true);
            all.set(c.getSimpleName(), s);
        }
        System.out.println(M.writerWithDefaultPrettyPrinter().writeValueAsString(all));
    }

    static ObjectNode of(JavaType t, boolean root) {
        ObjectNode o = M.createObjectNode();
        Class<?> c = t.getRawClass();
        if (t.isEnumType()) {
            o.put("type", "string");
            ArrayNode e = o.putArray("enum");
            for (Object v : c.getEnumConstants()) e.add(M.convertValue(v, JsonNode.class));
            return o;
        }
        if (c == String.class) return o.put("type", "string");
        if (c == int.class || c == Integer.class || c == long.class || c == Long.class || c == short.class) return o.put("type", "integer");
        if (c == double.class || c == Double.class || c == float.class || c == Float.class) return o.put("type", "number");
        if (c == boolean.class || c == Boolean.class) return o.put("type", "boolean");
        if (t.isCollectionLikeType() || t.isArrayType()) { o.put("type", "array"); o.set("items", of(t.getContentType(), false)); return o; }
        if (t.isMapLikeType()) { o.put("type", "object"); if (t.getContentType().getRawClass() != Object.class) o.set("additionalProperties", of(t.getContentType(), false)); return o; }
        if (c == Object.class) return o;
        if (!c.getName().startsWith("io.strimzi")) return o;      // a type of Kubernetes: not looked into
        if (open.contains(t)) return o.put("type", "object");
        open.add(t);
        try {
            JsonSubTypes sub = c.getAnnotation(JsonSubTypes.class);
            JsonTypeInfo info = c.getAnnotation(JsonTypeInfo.class);
            if (sub != null && info != null && java.lang.reflect.Modifier.isAbstract(c.getModifiers())) {
                String key = info.property();
                ArrayNode any = o.putArray("anyOf");
                for (JsonSubTypes.Type s : sub.value()) {
                    ObjectNode one = of(M.constructType(s.value()), false);
                    ObjectNode p = (ObjectNode) one.get("properties");
                    ObjectNode k = M.createObjectNode(); k.putArray("enum").add(s.name());
                    p.set(key, k);
                    any.add(one);
                }
                return o;
            }
            o.put("type", "object");
            ObjectNode props = o.putObject("properties");
            BeanDescription d = M.getSerializationConfig().introspect(t);
            for (BeanPropertyDefinition p : d.findProperties()) {
                if (root && Set.of("metadata", "status", "apiVersion", "kind").contains(p.getName())) continue;
                AnnotatedMember m = p.getAccessor();
                if (m == null) continue;
                props.set(p.getName(), of(m.getType(), false));
            }
            if (root) { props.putObject("apiVersion"); props.putObject("kind"); props.putObject("metadata"); }
            o.put("additionalProperties", false);
            return o;
        } finally { open.remove(t); }
    }
}
