/* A module that is loaded late and uses sockets: an exchange on a connection of its host. */
#include <string.h>
#include <sys/socket.h>

int plugin_exchange(int client, int server, int count)
{
    char out[64] = "from the plugin", in[64];
    int good = 0;
    for (int i = 0; i < count; i++) {
        if (send(client, out, sizeof out, 0) == sizeof out &&
            recv(server, in, sizeof in, MSG_WAITALL) == sizeof in)
            good += memcmp(in, out, sizeof in) == 0;
        if (send(server, out, sizeof out, 0) == sizeof out &&
            recv(client, in, sizeof in, MSG_WAITALL) == sizeof in)
            good += memcmp(in, out, sizeof in) == 0;
    }
    return good;
}
