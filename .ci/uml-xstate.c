// Preloaded into User Mode Linux, so that it runs on a CPU with more registers than it knows of.
//
// A process in User Mode Linux is a traced process here, and its vector registers are written with
// ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, iovec). The kernel takes all of them or none: a buffer shorter than
// this CPU's whole state is EFAULT (xstateregs_set() in arch/x86/kernel/fpu/regset.c). Linux 6.1's User Mode Linux
// has a buffer of 2696 bytes, which holds AVX-512. With AMX the state has 11008, and User Mode Linux panics at its
// first program: "ptrace set fp regs failed, errno = 14".
//
// So what is missing at the end is filled up with what the process has there already. See ptrace(2), ld.so(8).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, ...);
    static char state[65536];
    static size_t size; // of this CPU's whole state, once it is known

    va_list arguments;
    va_start(arguments, request);
    int pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (!next)
        next = dlsym(RTLD_NEXT, "ptrace");
    if (request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
        return next(request, pid, address, data);

    struct iovec *given = data;
    struct iovec whole = {state, sizeof state};
    if (size && given->iov_len >= size)
        return next(request, pid, address, data);
    // The kernel sets iov_len to what it has written.
    if (next(PTRACE_GETREGSET, pid, address, &whole) != 0)
        return -1;
    size = whole.iov_len;
    if (given->iov_len >= size)
        return next(request, pid, address, data);
    memcpy(state, given->iov_base, given->iov_len);
    return next(request, pid, address, &whole);
}
