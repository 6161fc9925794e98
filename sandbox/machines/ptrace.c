// SPDX-License-Identifier: Apache-2.0
//
// Loaded before the C library into user-mode-linux, which runs each process of a machine by
// ptrace(2) and gives it the registers of its processor back. Its kernel knows 2,696 bytes of them
// (up to PKRU). Linux takes all that the processor has or nothing (EFAULT), and one with AMX has
// 11,008: no process of a machine could be started there. So what is missing is added, in its
// initial state: user-mode-linux lets nobody use it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

// The layout is the processor's (Intel 64 manual, volume 1, chapter 13): which of its parts are
// not in their initial state stands here, a bit each; those that user-mode-linux knows are the
// first ten.
enum { PARTS_OFFSET = 512, KNOWN_PARTS = 0x3ff };

static long (*real_ptrace)(int request, pid_t pid, void *address, void *data);
// Not on the stack: those of user-mode-linux are small, and it does one thing at a time.
static uint8_t all[1 << 16] __attribute__((aligned(64)));
static size_t all_size;

__attribute__((constructor)) static void find_real_ptrace(void)
{
    *(void **)&real_ptrace = dlsym(RTLD_NEXT, "ptrace");
}

static long set_registers(pid_t pid, void *kind, struct iovec *given)
{
    if (!all_size) {
        struct iovec whole = {all, sizeof all};
        if (real_ptrace(PTRACE_GETREGSET, pid, kind, &whole))
            return -1;
        all_size = whole.iov_len;
        memset(all, 0, sizeof all);
    }
    if (given->iov_len >= all_size)
        return real_ptrace(PTRACE_SETREGSET, pid, kind, given);
    memcpy(all, given->iov_base, given->iov_len);
    uint64_t parts;
    memcpy(&parts, all + PARTS_OFFSET, sizeof parts);
    parts &= KNOWN_PARTS;
    memcpy(all + PARTS_OFFSET, &parts, sizeof parts);
    struct iovec whole = {all, all_size};
    return real_ptrace(PTRACE_SETREGSET, pid, kind, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
        return set_registers(pid, address, data);
    return real_ptrace(request, pid, address, data);
}
