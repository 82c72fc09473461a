// gRPC for Java against a server of ours: `java -cp 'JARS/*' Client.java HOST:PORT [ROOTS]`. Messages pass as bytes.
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.ClientCalls;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public class Client {
    static final MethodDescriptor.Marshaller<byte[]> SAME =
            new MethodDescriptor.Marshaller<>() {
                @Override
                public InputStream stream(byte[] message) {
                    return new ByteArrayInputStream(message);
                }

                @Override
                public byte[] parse(InputStream message) {
                    try {
                        return message.readAllBytes();
                    } catch (IOException failed) {
                        throw new UncheckedIOException(failed);
                    }
                }
            };

    static void check(String name, boolean right, Object found) {
        System.out.println(name + (right ? ": right" : ": wrong: " + found));
        if (!right) System.exit(1);
    }

    static MethodDescriptor<byte[], byte[]> method(MethodDescriptor.MethodType kind, String path) {
        return MethodDescriptor.<byte[], byte[]>newBuilder(SAME, SAME).setType(kind).setFullMethodName(path).build();
    }

    static byte[] call(ManagedChannel channel, String path, byte[] message, CallOptions options) {
        return ClientCalls.blockingUnaryCall(channel, method(MethodDescriptor.MethodType.UNARY, path), options, message);
    }

    static Status refusal(ManagedChannel channel, String path, CallOptions options) {
        try {
            call(channel, path, new byte[] {1}, options);
            return Status.OK;
        } catch (StatusRuntimeException refused) {
            return refused.getStatus();
        }
    }

    /** A stream whose messages, and then whose status, come into a queue. */
    static ClientCall<byte[], byte[]> open(ManagedChannel channel, BlockingQueue<Object> come) {
        MethodDescriptor<byte[], byte[]> both = method(MethodDescriptor.MethodType.BIDI_STREAMING, "t/Double");
        ClientCall<byte[], byte[]> stream = channel.newCall(both, CallOptions.DEFAULT);
        stream.start(
                new ClientCall.Listener<byte[]>() {
                    @Override
                    public void onMessage(byte[] message) {
                        come.add(message);
                    }

                    @Override
                    public void onClose(Status status, Metadata trailers) {
                        come.add(status);
                    }
                },
                new Metadata());
        stream.request(Integer.MAX_VALUE);
        return stream;
    }

    static Status.Code ending(BlockingQueue<Object> come) throws InterruptedException {
        Object last = come.poll(10, TimeUnit.SECONDS);
        return last instanceof Status status ? status.getCode() : null;
    }

    public static void main(String[] arguments) throws Exception {
        var trust = arguments.length > 1
                ? TlsChannelCredentials.newBuilder().trustManager(new File(arguments[1])).build()
                : InsecureChannelCredentials.create();
        ManagedChannel channel =
                Grpc.newChannelBuilder(arguments[0], trust).maxInboundMessageSize(1 << 30).build();
        for (int size : new int[] {0, 1, 16384, 600_000, 20_000_000}) {
            byte[] sent = new byte[size];
            Arrays.fill(sent, (byte) 7);
            byte[] answer = call(channel, "t/Echo", sent, CallOptions.DEFAULT);
            check("unary " + size, Arrays.equals(sent, answer), answer.length);
        }
        Status status = refusal(channel, "t/Nothing", CallOptions.DEFAULT);
        check("unknown method", status.getCode() == Status.Code.UNIMPLEMENTED, status);
        status = refusal(channel, "t/Refuse", CallOptions.DEFAULT);
        boolean told = "f\u00fcr sp\u00e4ter 100 %\n".equals(status.getDescription());
        check("status", status.getCode() == Status.Code.FAILED_PRECONDITION && told, status);
        status = refusal(channel, "t/Wait", CallOptions.DEFAULT.withDeadlineAfter(100, TimeUnit.MILLISECONDS));
        check("deadline", status.getCode() == Status.Code.DEADLINE_EXCEEDED, status);
        BlockingQueue<Object> come = new LinkedBlockingQueue<>();
        ClientCall<byte[], byte[]> stream = open(channel, come);
        for (int i = 1; i < 1000; i++) {
            stream.sendMessage(new byte[i]);
            Object got = come.poll(10, TimeUnit.SECONDS);
            if (!(got instanceof byte[] answer) || answer.length != 2 * i) check("receive", false, got);
        }
        stream.halfClose();
        check("end of stream", ending(come) == Status.Code.OK, "more");
        ClientCall<byte[], byte[]> early = open(channel, come);
        early.sendMessage(new byte[] {1});
        come.poll(10, TimeUnit.SECONDS);
        early.cancel("enough", null);
        check("cancel", ending(come) == Status.Code.CANCELLED, "not cancelled");
        byte[] answer = call(channel, "t/Echo", new byte[] {1}, CallOptions.DEFAULT);
        check("afterwards", answer.length == 1, answer.length);
        channel.shutdownNow();
    }
}
