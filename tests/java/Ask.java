import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.stream.LongStream;
import java.util.zip.CRC32;

/** Ask PORT MIB [more]: asks Nio or Blocking (more) for everything that they know; prints sums. */
class Ask {
    static InetSocketAddress server;
    static int mib;

    public static void main(String[] args) throws Exception {
        server = new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(args[0]));
        mib = Integer.parseInt(args[1]);
        System.out.println("questions " + questions());
        var pool = Executors.newCachedThreadPool();
        var tasks = new ArrayList<Callable<String>>();
        for (int i = 0; i < 4; i++) {
            long seed = i;
            tasks.add(() -> "stream " + stream(seed));
            tasks.add(() -> "channel " + channel(seed));
            tasks.add(() -> "file " + file());
        }
        for (var result : pool.invokeAll(tasks)) System.out.println(result.get());
        pool.shutdown();
        if (args.length > 2) {
            System.out.println("objects " + objects());
            System.out.println("timeouts " + timeouts());
        }
        open('q').close();
    }

    static Socket open(char kind) throws IOException {
        var socket = new Socket(server.getAddress(), server.getPort());
        socket.setTcpNoDelay(true);
        socket.getOutputStream().write(kind);
        return socket;
    }

    /** One question at a time, of all sizes. */
    static String questions() throws IOException {
        var random = new Random(7);
        var crc = new CRC32();
        try (var socket = open('e')) {
            var in = new DataInputStream(socket.getInputStream());
            for (int i = 0; i < 5000; i++) {
                var block = new byte[1 + random.nextInt(i % 100 == 0 ? 300_000 : 300)];
                random.nextBytes(block);
                var sender = block.length > 65536 ? send(socket, block) : null;
                if (sender == null) socket.getOutputStream().write(block);
                in.readFully(block);
                if (sender != null) join(sender);
                crc.update(block);
            }
            socket.shutdownOutput();
            return crc.getValue() + " end " + in.read();
        }
    }

    /** What does not fit in buffers needs a second thread. */
    static Thread send(Socket socket, byte[] block) {
        var thread = new Thread(() -> {
            try {
                socket.getOutputStream().write(block.clone());
            } catch (IOException e) {
                throw new RuntimeException(e);
            }
        });
        thread.start();
        return thread;
    }

    static void join(Thread thread) {
        try {
            thread.join();
        } catch (InterruptedException e) {
            throw new RuntimeException(e);
        }
    }

    static String sum(InputStream in) throws IOException {
        var crc = new CRC32();
        var block = new byte[50_000];
        long length = 0;
        for (int n; (n = in.read(block)) >= 0; length += n) crc.update(block, 0, n);
        return length + " " + crc.getValue();
    }

    static String file() throws IOException {
        try (var socket = open('f')) {
            return sum(socket.getInputStream());
        }
    }

    /** Both directions at once, a thread for each. */
    static String stream(long seed) throws Exception {
        try (var socket = open('e')) {
            var sender = new Thread(() -> {
                var random = new Random(seed);
                var block = new byte[64 * 1024];
                try {
                    for (int i = 0; i < 16 * mib; i++) {
                        random.nextBytes(block);
                        socket.getOutputStream().write(block);
                    }
                    socket.shutdownOutput();
                } catch (IOException e) {
                    throw new RuntimeException(e);
                }
            });
            sender.start();
            var result = sum(socket.getInputStream());
            sender.join();
            return result;
        }
    }

    /** Both directions in one thread, by a channel that does not block. */
    static String channel(long seed) throws IOException {
        var random = new Random(seed);
        var crc = new CRC32();
        try (var channel = SocketChannel.open(server); var selector = channel.provider().openSelector()) {
            channel.configureBlocking(false);
            var out = ByteBuffer.allocateDirect(100_000);
            out.put((byte) 'e').flip();
            var in = ByteBuffer.allocateDirect(100_000);
            var block = new byte[100_000];
            long left = (long) mib << 20;
            long length = 0;
            var key = channel.register(selector, 0);
            boolean ended = false;
            while (true) {
                if (!out.hasRemaining() && left > 0) {
                    int n = (int) Math.min(left, block.length);
                    random.nextBytes(block);
                    out.clear().put(block, 0, n).flip();
                    left -= n;
                }
                if (out.hasRemaining()) channel.write(out);
                if (!out.hasRemaining() && left == 0 && !ended) {
                    channel.shutdownOutput();
                    ended = true;
                }
                int n = channel.read(in.clear());
                if (n < 0) return length + " " + crc.getValue();
                length += n;
                crc.update(in.flip());
                key.interestOps(java.nio.channels.SelectionKey.OP_READ
                    | (ended ? 0 : java.nio.channels.SelectionKey.OP_WRITE));
                selector.select();
                selector.selectedKeys().clear();
            }
        }
    }

    static String objects() throws Exception {
        long sum = 0;
        try (var socket = open('o')) {
            var out = new ObjectOutputStream(socket.getOutputStream());
            var in = new ObjectInputStream(socket.getInputStream());
            for (int i = 0; i < 300; i++) {
                out.writeObject(new ArrayList<>(LongStream.range(0, i).boxed().toList()));
                out.flush();
                sum += (Long) in.readObject();
            }
            out.writeObject("enough");
            return Long.toString(sum);
        }
    }

    /** A byte after two time-outs of the server's, three times. */
    static String timeouts() throws IOException {
        var text = new StringBuilder();
        try (var socket = open('t')) {
            var in = new DataInputStream(socket.getInputStream());
            for (int i = 1; i <= 3; i++) {
                int missed = 0;
                for (int n; (n = in.readInt()) != i; ) {
                    if (n != -2) throw new IOException("got " + n);
                    if (++missed == 2) socket.getOutputStream().write(i);
                }
                text.append(missed >= 2 ? " waited" : " not");
            }
            return text + " end " + in.read();
        }
    }
}
