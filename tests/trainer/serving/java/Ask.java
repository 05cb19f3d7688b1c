import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.tensorflow.Result;
import org.tensorflow.SavedModelBundle;
import org.tensorflow.Tensor;
import org.tensorflow.ndarray.Shape;
import org.tensorflow.ndarray.buffer.DataBuffers;
import org.tensorflow.proto.DataType;
import org.tensorflow.proto.SignatureDef;
import org.tensorflow.proto.TensorProto;
import org.tensorflow.types.TBool;
import org.tensorflow.types.TFloat32;
import org.tensorflow.types.TInt32;
import org.tensorflow.types.TString;

/**
 * Asks an exported model for the best items of some users, as a Java service would:
 *
 * <pre>java -cp CLASSPATH Ask.java MODEL K USER,USER... [FEATURE=VALUE ...]</pre>
 *
 * VALUE is one text, or one number, for all users. Prints a line for each item: user, item and score, with tabs between
 * them.
 */
public class Ask {
  public static void main(String[] arguments) {
    try (SavedModelBundle model = SavedModelBundle.load(arguments[0], SavedModelBundle.DEFAULT_TAG)) {
      SignatureDef signature = model.metaGraphDef().getSignatureDefOrThrow("recommend");
      String[] users = arguments[2].split(",");
      Map<String, Tensor> inputs = new HashMap<>();
      inputs.put("user", TString.vectorOf(users));
      inputs.put("k", TInt32.scalarOf(Integer.parseInt(arguments[1])));
      for (String argument : Arrays.asList(arguments).subList(3, arguments.length)) {
        String[] parts = argument.split("=", 2);
        boolean number = signature.getInputsOrThrow(parts[0]).getDtype() == DataType.DT_FLOAT;
        inputs.put(parts[0],
            number ? TFloat32.vectorOf(Float.parseFloat(parts[1])) : TString.vectorOf(parts[1]));
      }
      // TensorFlow Serving fills in what a request leaves out; a session of one's own has to be given all inputs.
      signature.getDefaultsMap().forEach((name, value) -> inputs.computeIfAbsent(name, missing -> tensorOf(value)));
      try (Result answer = model.function("recommend").call(inputs)) {
        print(users, (TString) answer.get("items").get(), (TFloat32) answer.get("scores").get());
      } finally {
        inputs.values().forEach(Tensor::close);
      }
    }
  }

  private static void print(String[] users, TString items, TFloat32 scores) {
    for (int user = 0; user < users.length; user++) {
      for (int place = 0; place < items.shape().get(1); place++) {
        String item = items.getObject(user, place);
        if (!item.isEmpty()) { // "" fills a list up when fewer than k items are left
          System.out.println(users[user] + "\t" + item + "\t" + scores.getFloat(user, place));
        }
      }
    }
  }

  /** The tensor of a signature's default: text, one number, one truth value, or numbers that are all the same. */
  private static Tensor tensorOf(TensorProto proto) {
    Shape shape =
        Shape.of(proto.getTensorShape().getDimList().stream().mapToLong(size -> size.getSize()).toArray());
    switch (proto.getDtype()) {
      case DT_STRING:
        String[] text = new String[(int) shape.size()];
        Arrays.setAll(text, place -> proto.getStringVal(place).toStringUtf8());
        return TString.tensorOf(shape, DataBuffers.ofObjects(text));
      case DT_INT32:
        return TInt32.scalarOf(proto.getIntVal(0));
      case DT_BOOL:
        return TBool.scalarOf(proto.getBoolVal(0));
      case DT_FLOAT:
        float value = shape.size() == 0 ? 0 : proto.getFloatVal(0);
        return TFloat32.tensorOf(shape, data -> data.scalars().forEach(scalar -> scalar.setFloat(value)));
      default:
        throw new IllegalArgumentException("no code for a default of " + proto.getDtype());
    }
  }
}
