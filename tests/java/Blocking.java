import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Executors;

/**
 * Blocking PORT FILE: a thread for each connection, streams of java.io. It speaks as Nio does, and
 * 'o': answers each list that it gets as an object; 't': counts the time-outs until a byte comes.
 */
class Blocking {
    public static void main(String[] args) throws Exception {
        var file = Path.of(args[1]);
        var pool = Executors.newCachedThreadPool();
        try (var listener = new ServerSocket(Integer.parseInt(args[0]), 50, InetAddress.getByName("127.0.0.1"))) {
            while (true) {
                var socket = listener.accept();
                socket.setTcpNoDelay(true);
                int kind = socket.getInputStream().read();
                if (kind == 'q') break;
                pool.submit(() -> {
                    try (socket) {
                        serve(socket, kind, file);
                    } catch (Exception e) {
                        e.printStackTrace();
                        System.exit(1);
                    }
                    return null;
                });
            }
        }
        pool.shutdown();
    }

    static void serve(Socket socket, int kind, Path file) throws Exception {
        var in = socket.getInputStream();
        var out = socket.getOutputStream();
        switch (kind) {
            case 'e' -> in.transferTo(out);
            case 'f' -> Files.copy(file, out);
            case 'o' -> objects(new ObjectInputStream(in), new ObjectOutputStream(out));
            case 't' -> timeouts(socket, new DataInputStream(in), new DataOutputStream(new BufferedOutputStream(out)));
            default -> throw new IOException("what is " + kind);
        }
    }

    static void objects(ObjectInputStream in, ObjectOutputStream out) throws Exception {
        while (in.readObject() instanceof List<?> list) {
            out.writeObject(list.stream().mapToLong(n -> (Long) n).sum());
            out.flush();
        }
    }

    /** Says when it has waited in vain, and goes on: the time-out loses nothing. */
    static void timeouts(Socket socket, DataInputStream in, DataOutputStream out) throws IOException {
        socket.setSoTimeout(50);
        for (int left = 3; left > 0; ) {
            try {
                int got = in.read();
                out.writeInt(got);
                out.flush();
                left--;
            } catch (SocketTimeoutException e) {
                out.writeInt(-2);
                out.flush();
            }
        }
    }
}
