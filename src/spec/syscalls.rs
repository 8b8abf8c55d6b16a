//! The system calls of docker's default profile, as tables: what every container may call, and what hangs on an
//! architecture or a capability.
//!
//! The set is that of moby's `profiles/seccomp/default.json` of August 2026, without the names that only 32-bit
//! machines have (`chown32`, `clock_gettime64`, …): a filter for one 64-bit architecture cannot match them, and each
//! name costs time when the filter is compiled. Names that the linked libseccomp does not know are skipped by it.

use oci_spec::runtime::Capability;

/// Calls that every 64-bit Linux has.
pub(super) const EVERYWHERE: [&str; 12] = [
    FILES,
    METADATA,
    DESCRIPTORS,
    EVENTS,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SCHEDULING,
    SIGNALS,
    TIME,
    COMMUNICATION,
    SYSTEM,
];

/// Opening, making, renaming and removing files.
const FILES: &str = "\
    chdir close close_range copy_file_range fallocate fchdir fdatasync flock fsync ftruncate getcwd getdents64 \
    linkat lseek mkdirat mknodat name_to_handle_at openat openat2 pread64 preadv preadv2 pwrite64 pwritev \
    pwritev2 read readahead readlinkat readv renameat renameat2 symlinkat sync sync_file_range syncfs truncate \
    unlinkat write writev";

/// Owners, modes, times, extended attributes, file systems.
const METADATA: &str = "\
    cachestat faccessat faccessat2 fadvise64 fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr \
    fremovexattr fsetxattr fstat fstatfs getxattr getxattrat lgetxattr listmount listxattr listxattrat \
    llistxattr lremovexattr lsetxattr newfstatat removexattr removexattrat setxattr setxattrat statfs \
    statmount statx umask utimensat";

/// Descriptors and moving data between them.
const DESCRIPTORS: &str = "dup dup3 fcntl ioctl memfd_create memfd_secret pipe2 sendfile splice tee vmsplice";

/// Waiting for things, and asynchronous input and output.
const EVENTS: &str = "\
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 fanotify_mark inotify_add_watch inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ppoll pselect6 \
    signalfd4";

/// Address spaces.
const MEMORY: &str = "\
    brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync \
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages";

/// Programs, threads and what they wait on. `clone` and `clone3` have rules of their own.
const PROCESSES: &str = "\
    execve execveat exit exit_group futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list \
    getpgid getpid getppid getsid gettid pidfd_open prctl rseq seccomp set_robust_list set_tid_address setpgid \
    setsid wait4 waitid";

/// User and group ids, capabilities, landlock (which only takes rights away).
const IDENTITY: &str = "\
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self setfsgid setfsuid setgid setgroups setregid setresgid \
    setresuid setreuid setuid";

/// Processor time, priorities and limits.
const SCHEDULING: &str = "\
    getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
    setpriority setrlimit";

/// Signals.
const SIGNALS: &str = "\
    kill pidfd_send_signal restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack tgkill tkill";

/// Clocks and timers; setting a clock needs a capability besides.
const TIME: &str = "\
    adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep \
    setitimer timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create \
    timerfd_gettime timerfd_settime times";

/// Sockets (but `socket` itself, which has rules of its own) and System V and POSIX queues.
const COMMUNICATION: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget \
    semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair";

/// Facts about the machine.
const SYSTEM: &str = "getrandom sysinfo uname";

/// What architectures older than the generic table (2008) kept beside the `…at` calls.
const CLASSIC: &str = "\
    access alarm chmod chown creat dup2 epoll_create epoll_wait eventfd fork futimesat getdents getpgrp \
    inotify_init lchown link lstat mkdir mknod open pause pipe poll readlink rename rmdir select signalfd stat \
    symlink time unlink utime utimes vfork";

/// What only POWER and Z kept.
const OLDEST: &str = "\
    _llseek _newselect fstatfs64 ipc recv send sigprocmask sigreturn socketcall statfs64 ugetrlimit waitpid";

const X86: &str = "arch_prctl epoll_ctl_old epoll_wait_old get_thread_area modify_ldt set_thread_area uretprobe";
const POWER: &str = "swapcontext sync_file_range2";
const Z: &str = "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr";
const RISCV: &str = "riscv_flush_icache riscv_hwprobe";

/// The further calls of an architecture (in Go's spelling); `None` for one that has no table.
pub(super) fn of_architecture(architecture: &str) -> Option<&'static [&'static str]> {
    Some(match architecture {
        "amd64" => &[CLASSIC, X86],
        "arm64" | "loong64" | "loongarch64" => &[],
        "riscv64" => &[RISCV],
        "ppc64le" => &[CLASSIC, OLDEST, POWER],
        "s390x" => &[CLASSIC, OLDEST, Z],
        _ => return None,
    })
}

/// Looking into other processes of the same user: safe since Linux 4.8, where a tracer cannot undo the filter.
pub(super) const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Calls that docker opens with a capability. With `CAP_SYS_ADMIN` `clone` and `clone3` lose their restrictions too.
pub(super) const OF_CAPABILITIES: &[(Capability, &str)] = &[
    (Capability::Bpf, "bpf"),
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::Perfmon, "perf_event_open"),
    (
        Capability::SysAdmin,
        "\
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
        quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
];
