#!/usr/bin/python3 -IS
# SPDX-License-Identifier: Apache-2.0
"""Runs in a machine what the controller says, and relays the hook commands of what it runs.

It obeys, as root, whoever connects, without a password: the network it listens on is a bridge in
the controller's own network namespace, where only the machines of one sandbox are.

A connection carries one request, a process of its own serves it, and a connection that ends early
ends what it asked for. A frame is a length (4 bytes, big-endian) and that many bytes of JSON. The
first frame is the request; `Run` says what follows.
"""

import codecs
import errno
import json
import os
import selectors
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

PORT = 7077
HOOK_COMMAND = "/usr/lib/sandbox/hook_command"
HOOK_COMMAND_TIMEOUT_S = 10.0
"""How long a hook command may take to say what it wants."""
PIPE_BYTES = 65536
"""What a pipe holds at most (pipe(7)), so that one read empties it."""

# ptrace(2), <linux/ptrace.h>
PTRACE_CONT = 7
PTRACE_SEIZE = 0x4206
PTRACE_LISTEN = 0x4208
PTRACE_O_TRACEFORK = 0x2
PTRACE_O_TRACEVFORK = 0x4
PTRACE_O_TRACECLONE = 0x8
PTRACE_O_TRACEEXEC = 0x10
PTRACE_EVENT_EXEC = 4
PTRACE_EVENT_STOP = 128
WAIT_ALL = 0x40000000
"""__WALL of waitpid(2): children of every kind, threads too."""


class Request(TypedDict):
    """The first frame: the command, its environment, what it reads, and what is done with it."""

    argv: list[str]
    env: dict[str, str] | None
    cwd: str
    stdin: str
    hook_commands: bool
    kill_at_exec: int | None


def main(address: str = "") -> None:
    """Serve each connection to an address, or to any, in a process of its own."""
    # Served connections are nobody's children to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.create_server((address, PORT), backlog=32)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(connection)
            return
        connection.close()


def serve(connection: socket.socket) -> None:
    """Do what one request asks; the last frame is the answer, or carries ``error``."""
    request = cast("Request | None", receive(connection))
    if request is None:
        return
    try:
        answer = Run(connection, request).until_done()
    except (OSError, ValueError) as error:
        answer = {"error": str(error)}
    if answer is not None:
        send(connection, answer)


class Run:
    """A command; its output and hook commands are frames, answered or not, until it ends.

    ``{"stream": "stdout"|"stderr", "text": …}`` goes out as it comes. ``{"call": n, "argv",
    "stdin"}`` goes out for a hook command, and ``{"call": n, "answer": [status, output, errors]}``
    comes back. ``{"returncode": …}`` is the last; it is negative after a signal.
    """

    def __init__(self, connection: socket.socket, request: Request) -> None:
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ, self._hear_controller)
        self._calls: dict[int, socket.socket] = {}
        self._calls_made = 0
        self._context_id = ""
        if request["hook_commands"]:
            self._listen(request["env"] or {})
        self._pipes: dict[int, str] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self.pid = self._start(request)
        self._process = os.pidfd_open(self.pid)
        self._selector.register(self._process, selectors.EVENT_READ)
        self._is_abandoned = False

    def until_done(self) -> Mapping[str, object] | None:
        """Relay until the command ends; None if the controller hung up, and nothing is left."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._process:
                    return self._finish()
                key.data(key.fileobj)
                if self._is_abandoned:
                    os.killpg(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    return None

    def _start(self, request: Request) -> int:
        outputs: list[int] = []
        for stream in ("stdout", "stderr"):
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            outputs.append(writer)
            self._pipes[reader] = stream
            self._decoders[reader] = codecs.getincrementaldecoder("utf-8")("replace")
            self._selector.register(reader, selectors.EVENT_READ, self._relay_output)
        stdin = os.memfd_create("stdin")
        os.write(stdin, request["stdin"].encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            become(request, [stdin, *outputs])
        for descriptor in (stdin, *outputs):
            os.close(descriptor)
        return pid

    def _relay_output(self, reader: int) -> None:
        """Send what a pipe holds; forget the pipe at its end."""
        try:
            data = os.read(reader, PIPE_BYTES)
        except BlockingIOError:
            return
        text = self._decoders[reader].decode(data, final=not data)
        if text:
            send(self._connection, {"stream": self._pipes[reader], "text": text})
        if not data:
            self._selector.unregister(reader)
            del self._pipes[reader]

    def _finish(self) -> Mapping[str, object]:
        """Send what the pipes still hold. Who else has them open isn't waited for."""
        _, status = os.waitpid(self.pid, 0)
        for reader in list(self._pipes):
            self._relay_output(reader)
        return {"returncode": os.waitstatus_to_exitcode(status)}

    def _listen(self, env: Mapping[str, str]) -> None:
        self._context_id = env["JUJU_CONTEXT_ID"]
        path = env["JUJU_AGENT_SOCKET_ADDRESS"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path):
            os.remove(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(16)
        self._selector.register(listener, selectors.EVENT_READ, self._hear_hook_command)

    def _hear_hook_command(self, listener: socket.socket) -> None:
        """Take a call: how many words, the context, argv, standard input; a NUL between."""
        call, _ = listener.accept()
        call.settimeout(HOOK_COMMAND_TIMEOUT_S)
        try:
            count, rest = receive_bytes(call).split(b"\0", 1)
        except (OSError, EOFError):
            # The hook command was killed before it had said all.
            call.close()
            return
        *words, stdin = rest.split(b"\0", int(count))
        context_id, *argv = (word.decode(errors="surrogateescape") for word in words)
        if context_id != self._context_id:
            answer_hook_command(call, 1, "", f"ERROR no such hook context: {context_id}\n")
            return
        self._calls_made += 1
        self._calls[self._calls_made] = call
        message = {"call": self._calls_made, "argv": argv}
        send(self._connection, {**message, "stdin": stdin.decode(errors="replace")})

    def _hear_controller(self, connection: socket.socket) -> None:
        message = receive(connection)
        if message is None:
            self._is_abandoned = True
            return
        call = self._calls.pop(cast("int", message["call"]))
        answer_hook_command(call, *cast("tuple[int, str, str]", message["answer"]))


def become(request: Request, streams: Sequence[int]) -> None:
    """Turn this process, a child, into the command; never returns."""
    try:
        os.setsid()
        for descriptor, stream in enumerate(streams):
            os.dup2(stream, descriptor)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.chdir(request["cwd"])
        env = os.environ if request["env"] is None else request["env"]
        limit = request["kill_at_exec"]
        if limit is not None:
            be_traced(limit)
        os.execvpe(request["argv"][0], request["argv"], env)
    except OSError as error:
        os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)


def be_traced(limit: int) -> None:
    """Put a tracer in this process's place and go on as its child.

    The group of both is killed by the exec that is number ``limit``, before the new program has
    executed an instruction.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        return
    os.close(reader)
    options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC
    ptrace(PTRACE_SEIZE, pid, options)
    os.close(writer)
    trace(pid, limit)


def trace(child: int, limit: int) -> None:
    """Count the execs of a process and its descendants; end as it ends."""
    traced = {child}
    while True:
        pid, status = os.waitpid(-1, WAIT_ALL)
        if not os.WIFSTOPPED(status):
            traced.discard(pid)
            if pid == child:
                end_like(status)
            continue
        traced.add(pid)
        event, signal_number = status >> 16, os.WSTOPSIG(status)
        if event == PTRACE_EVENT_EXEC and not is_hook_command(pid):
            limit -= 1
            if limit == 0:
                for process in traced:
                    os.kill(process, signal.SIGKILL)
                os.killpg(0, signal.SIGKILL)
        if event == PTRACE_EVENT_STOP and signal_number != signal.SIGTRAP:
            # Somebody sent SIGSTOP or the like; it stays stopped until SIGCONT.
            ptrace(PTRACE_LISTEN, pid)
        else:
            ptrace(PTRACE_CONT, pid, 0 if event else signal_number)


def end_like(status: int) -> None:
    """End this process with the status of another."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def is_hook_command(pid: int) -> bool:
    """Tell whether a process has just become a hook command."""
    return os.readlink(f"/proc/{pid}/exe") == HOOK_COMMAND


def ptrace(operation: int, pid: int, data: int = 0) -> None:
    """Make a request of the tracer; a process that is already gone is no error."""
    # Imported here, as nothing else needs it and it takes a while.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_void_p
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, pointer, pointer]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(operation, pid, None, data) == -1:
        error = ctypes.get_errno()
        if error != errno.ESRCH:
            raise OSError(error, os.strerror(error))


def answer_hook_command(call: socket.socket, returncode: int, stdout: str, stderr: str) -> None:
    """Answer a call: exit status, standard output, standard error; a NUL between."""
    try:
        call.sendall(f"{returncode}\0{stdout}\0{stderr}".encode(errors="surrogateescape"))
    except (BrokenPipeError, ConnectionResetError):
        # The hook command was killed meanwhile; nobody is left to be told.
        pass
    finally:
        call.close()


def send(connection: socket.socket, message: Mapping[str, object]) -> None:
    """Send a frame."""
    data = json.dumps(message).encode()
    connection.sendall(len(data).to_bytes(4, "big") + data)


def receive(connection: socket.socket) -> dict[str, object] | None:
    """Receive a frame; None if the other side has hung up."""
    try:
        return json.loads(receive_bytes(connection))
    except (EOFError, ConnectionResetError):
        return None


def receive_bytes(connection: socket.socket) -> bytes:
    """Receive a length and that many bytes.

    Raises:
        EOFError: the connection ended before that.
    """
    length = int.from_bytes(receive_exactly(connection, 4), "big")
    return receive_exactly(connection, length)


def receive_exactly(connection: socket.socket, length: int) -> bytes:
    """Receive ``length`` bytes, or raise EOFError."""
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


if __name__ == "__main__":
    main()
