// SPDX-License-Identifier: Apache-2.0
//
// Every hook command in a machine: passes its words on to the agent, and the answer back.
//
// It is in C and linked statically, because a dispatch runs tens of these and starting is nearly
// all that one costs: in a machine, an interpreter takes four times as long.

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

_Noreturn static void fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("ERROR ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

// Standard input belongs to the caller unless an argument says that it is for us.
static bool wants_stdin(char **words)
{
    for (; *words; words++)
        if (!strcmp(*words, "--file=-") ||
            (!strcmp(*words, "--file") && words[1] && !strcmp(words[1], "-")))
            return true;
    return false;
}

static FILE *connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        fail("too long a path: %s", path);
    strcpy(address.sun_path, path);
    int agent = socket(AF_UNIX, SOCK_STREAM, 0);
    if (agent < 0 || connect(agent, (struct sockaddr *)&address, sizeof address))
        fail("no agent at %s: %s", path, strerror(errno));
    return fdopen(agent, "r+");
}

static void copy(FILE *from, FILE *to)
{
    char data[65536];
    for (size_t length; (length = fread(data, 1, sizeof data, from)) > 0;)
        fwrite(data, 1, length, to);
}

// How many words, the context, the words, standard input; a NUL between. Its length comes first.
static void send_call(FILE *agent, const char *context, const char *name, char **words, int count)
{
    char *call;
    size_t length;
    FILE *text = open_memstream(&call, &length);
    fprintf(text, "%d%c%s%c%s%c", count + 2, 0, context, 0, name, 0);
    for (int number = 0; number < count; number++)
        fprintf(text, "%s%c", words[number], 0);
    if (wants_stdin(words))
        copy(stdin, text);
    fclose(text);
    uint32_t prefix = htonl(length);
    fwrite(&prefix, sizeof prefix, 1, agent);
    fwrite(call, 1, length, agent);
    fflush(agent);
}

int main(int count, char **words)
{
    const char *slash = strrchr(words[0], '/');
    const char *name = slash ? slash + 1 : words[0];
    const char *path = getenv("JUJU_AGENT_SOCKET_ADDRESS");
    const char *context = getenv("JUJU_CONTEXT_ID");
    if (!path || !context)
        fail("%s runs in hooks only: JUJU_AGENT_SOCKET_ADDRESS or JUJU_CONTEXT_ID is not set", name);

    FILE *agent = connect_to(path);
    send_call(agent, context, name, words + 1, count - 1);

    // Exit status and standard output, each with a NUL behind it; the rest is standard error.
    char *status = NULL, *output = NULL;
    size_t size = 0;
    if (getdelim(&status, &size, 0, agent) < 0)
        fail("the agent at %s hung up", path);
    size = 0;
    if (getdelim(&output, &size, 0, agent) < 0)
        fail("the agent at %s hung up", path);
    fputs(output, stdout);
    copy(agent, stderr);
    return atoi(status);
}
