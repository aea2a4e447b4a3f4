// Preloaded into User Mode Linux, it makes any CPU one with AMX, as far as ptrace(2) tells: so `.ci/run` sees on every
// machine that uml-xstate.c is needed there, and helps.
//
// The whole state of the vector registers has 11008 bytes then, and the kernel takes no less back.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { WHOLE = 11008 };

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, ...);

    va_list arguments;
    va_start(arguments, request);
    int pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (!next)
        next = dlsym(RTLD_NEXT, "ptrace");
    if ((request != PTRACE_GETREGSET && request != PTRACE_SETREGSET) || (long)address != NT_X86_XSTATE)
        return next(request, pid, address, data);

    struct iovec *given = data;
    if (request == PTRACE_SETREGSET && given->iov_len < WHOLE) {
        errno = EFAULT;
        return -1;
    }
    // What this CPU has comes first, as it does on one with AMX.
    static char room[65536];
    struct iovec own = {room, sizeof room};
    if (next(PTRACE_GETREGSET, pid, address, &own) != 0)
        return -1;
    if (request == PTRACE_SETREGSET) {
        own.iov_base = given->iov_base;
        return next(request, pid, address, &own);
    }
    memset(room + own.iov_len, 0, sizeof room - own.iov_len);
    if (given->iov_len > WHOLE)
        given->iov_len = WHOLE;
    memcpy(given->iov_base, room, given->iov_len);
    return 0;
}
