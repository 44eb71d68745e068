import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;

/**
 * Nio PORT FILE: one thread and one selector. The first byte of a connection says what it wants: 'e'
 * echoes until the end, 'f' gets FILE by transferTo (sendfile), 'q' ends the server.
 */
class Nio {
    /** What is under way on one connection. */
    static final class State {
        final ByteBuffer buffer = ByteBuffer.allocateDirect(64 * 1024);
        char kind;
        long position;
        boolean ended;
    }

    static FileChannel file;
    static boolean over;

    public static void main(String[] args) throws IOException {
        file = FileChannel.open(Path.of(args[1]));
        try (var selector = Selector.open(); var listener = ServerSocketChannel.open()) {
            listener.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), Integer.parseInt(args[0])));
            listener.configureBlocking(false);
            listener.register(selector, SelectionKey.OP_ACCEPT);
            while (!over) {
                selector.select();
                for (var keys = selector.selectedKeys().iterator(); keys.hasNext(); ) {
                    var key = keys.next();
                    keys.remove();
                    if (key.isAcceptable()) accept(selector, listener);
                    else serve(key);
                }
            }
        }
    }

    static void accept(Selector selector, ServerSocketChannel listener) throws IOException {
        for (SocketChannel channel; (channel = listener.accept()) != null; ) {
            channel.configureBlocking(false);
            channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            channel.register(selector, SelectionKey.OP_READ, new State());
        }
    }

    static void serve(SelectionKey key) throws IOException {
        var channel = (SocketChannel) key.channel();
        var state = (State) key.attachment();
        if (state.kind == 0) {
            var first = ByteBuffer.allocate(1);
            int n = channel.read(first);
            if (n == 0) return;
            state.kind = n < 0 ? 'x' : (char) first.get(0);
        }
        boolean done = switch (state.kind) {
            case 'e' -> echo(key, channel, state);
            case 'f' -> send(key, channel, state);
            case 'q' -> over = true;
            default -> true;
        };
        if (done) channel.close();
    }

    /** Reads and writes as far as both go; then asks for what is missing only. */
    static boolean echo(SelectionKey key, SocketChannel channel, State state) throws IOException {
        while (true) {
            int in = state.ended || !state.buffer.hasRemaining() ? 0 : channel.read(state.buffer);
            state.ended |= in < 0;
            state.buffer.flip();
            int out = channel.write(state.buffer);
            state.buffer.compact();
            if (state.ended && state.buffer.position() == 0) return true;
            if (in <= 0 && out == 0) break;
        }
        int wanted = state.buffer.position() > 0 ? SelectionKey.OP_WRITE : 0;
        if (!state.ended && state.buffer.hasRemaining()) wanted |= SelectionKey.OP_READ;
        key.interestOps(wanted);
        return false;
    }

    static boolean send(SelectionKey key, SocketChannel channel, State state) throws IOException {
        key.interestOps(SelectionKey.OP_WRITE);
        long n;
        while ((n = file.transferTo(state.position, 1 << 20, channel)) > 0) state.position += n;
        return state.position == file.size();
    }
}
