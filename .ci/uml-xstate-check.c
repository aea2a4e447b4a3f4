// Does uml-xstate.c do its work? Writes a traced child's registers from a buffer that is too short by 8 bytes, on any
// CPU. Exit status: 0 if the kernel takes it, as it does with the preload; 1 if it is refused with EFAULT, as without;
// 2 for anything else.
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char before[65536], after[65536];

int main(void)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(0);
    }
    if (child < 0 || waitpid(child, 0, 0) != child)
        err(2, "child");
    // Without it the child would stay behind, stopped, wherever this ends.
    if (ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL) != 0)
        err(2, "PTRACE_SETOPTIONS");

    struct iovec state = {before, sizeof before};
    if (ptrace(PTRACE_GETREGSET, child, NT_X86_XSTATE, &state) != 0)
        err(2, "PTRACE_GETREGSET");
    // %xmm0 lies at byte 160; bits 0 and 1 of byte 512 say that x87 and SSE are in use (Intel SDM 1, 13.4).
    before[160] ^= 0x55;
    before[512] |= 3;
    struct iovec cut = {before, state.iov_len - 8};
    if (ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &cut) != 0)
        err(errno == EFAULT ? 1 : 2, "PTRACE_SETREGSET");

    struct iovec again = {after, sizeof after};
    if (ptrace(PTRACE_GETREGSET, child, NT_X86_XSTATE, &again) != 0)
        err(2, "PTRACE_GETREGSET");
    if (again.iov_len != state.iov_len || memcmp(before, after, state.iov_len) != 0)
        errx(2, "the registers are not those that were written");
    return 0;
}
