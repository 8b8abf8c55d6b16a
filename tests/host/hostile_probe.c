/* What a hostile workload tries. Each word on the command line is one attempt; what works is told on standard output. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *what, long result) {
    printf("%s %s\n", what, result >= 0 ? "WORKS" : strerror(errno));
    fflush(stdout);
}

/* System calls that docker's filter or the missing capabilities refuse. */
static void calls(void) {
    char buffer[256] = {0};
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY, attributes.key_size = 4, attributes.value_size = 4, attributes.max_entries = 1;
    tell("add_key", syscall(SYS_add_key, "user", "name", "x", 1, KEY_SPEC_SESSION_KEYRING));
    tell("request_key", syscall(SYS_request_key, "user", "name", NULL, 0));
    tell("keyctl", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1));
    tell("io_uring_setup", syscall(425, 1, buffer));
    tell("userfaultfd", syscall(SYS_userfaultfd, 0));
    tell("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
    tell("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
    tell("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, buffer, O_RDONLY));
    tell("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
    tell("fsopen", syscall(430, "tmpfs", 0));
    tell("open_tree", syscall(428, AT_FDCWD, "/", 1));
    tell("setns", setns(open("/proc/1/ns/mnt", O_RDONLY), 0));
    tell("unshare", unshare(CLONE_NEWNS));
    tell("unshare_user", unshare(CLONE_NEWUSER));
    tell("clone_user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    tell("clone3", syscall(435, buffer, 64));
    tell("init_module", syscall(SYS_init_module, buffer, 1, ""));
    tell("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    tell("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
    tell("swapon", syscall(SYS_swapon, "/tmp", 0));
    tell("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    tell("settimeofday", syscall(SYS_settimeofday, NULL, buffer));
    tell("acct", syscall(SYS_acct, "/tmp/x"));
    tell("iopl", syscall(SYS_iopl, 3));
    tell("chroot_out", chroot("/proc/1/root/..") == 0 && chdir("../../../..") == 0 && access("/bin/busybox", F_OK) != 0 ? 0 : -1);
}

/* The number and description of the session keyring. */
static void keyring(void) {
    char text[256] = {0};
    long id = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
    syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text, sizeof text - 1);
    printf("%ld %s\n", id, text);
    printf("found %ld\n", syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "dockless-test", 0));
}

/* Puts a key into a session keyring of its own and becomes another program. */
static void with_key(char **words) {
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
    syscall(SYS_add_key, "user", "dockless-test", "secret", 6, KEY_SPEC_SESSION_KEYRING);
    execv(words[0], words);
    exit(1);
}

/* Whether its program is none of the container's, or may not even be looked at. A process that is no more is neither. */
static int is_foreign(int pid, dev_t own) {
    char path[64];
    struct stat program;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return stat(path, &program) == 0 ? program.st_dev != own : errno == EACCES;
}

/* Looks at every process that comes up, until `/stop` is there: its memory, descriptors, environment and control. */
static void spy(void) {
    struct stat own;
    char path[64], target[4096];
    long seen = 0;
    int first = getpid() + 1;
    stat("/proc/self/exe", &own);
    printf("ready\n"), fflush(stdout);
    while (access("/stop", F_OK) != 0) {
        int last = first + 40;
        for (int pid = first; pid < last; pid++) {
            if (kill(pid, 0) != 0) continue;
            if (pid + 20 > last) last = pid + 20;
            if (!is_foreign(pid, own.st_dev)) continue;
            seen++;
            snprintf(path, sizeof path, "/proc/%d/mem", pid);
            int memory = open(path, O_RDWR);
            snprintf(path, sizeof path, "/proc/%d/fd/3", pid);
            ssize_t link = readlink(path, target, sizeof target);
            snprintf(path, sizeof path, "/proc/%d/environ", pid);
            int environment = open(path, O_RDONLY);
            long seized = ptrace(PTRACE_SEIZE, pid, 0, 0);
            /* It may have become the container's own program meanwhile, or have ended. */
            if (is_foreign(pid, own.st_dev) && (memory >= 0 || link > 0 || environment >= 0 || seized == 0))
                printf("LOOKED INTO %d: %d %zd %d %ld\n", pid, memory, link, environment, seized);
            if (seized == 0) {
                /* Whoever is not let go is not seen to end by its parent. */
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                waitpid(pid, NULL, __WALL);
                ptrace(PTRACE_DETACH, pid, 0, 0);
            }
            if (memory >= 0) close(memory);
            if (environment >= 0) close(environment);
        }
        /* Numbers only grow. */
        while (last > first + 60) first++;
    }
    printf("seen %ld\n", seen);
}

/* CVE-2019-5736: a descriptor of the program that is being executed, kept over an execve(2), then opened for writing. */
__attribute__((constructor)) static void preloaded(void) {
    if (getenv("STEAL") == NULL) return;
    int program = open("/proc/self/exe", O_RDONLY);
    char number[16];
    snprintf(number, sizeof number, "%d", program);
    unsetenv("STEAL"), unsetenv("LD_PRELOAD");
    execl("/probe", "/probe", "rewrite", number, NULL);
    printf("cannot go on: %s\n", strerror(errno));
    _exit(1);
}

static void rewrite(const char *number) {
    char path[64], magic[5] = {0};
    struct stat program, own;
    snprintf(path, sizeof path, "/proc/self/fd/%s", number);
    fstat(atoi(number), &program), stat("/proc/self/exe", &own);
    int is_foreign = program.st_dev != own.st_dev || program.st_ino != own.st_ino;
    ssize_t length = pread(atoi(number), magic, 4, 0);
    printf("%s %s\n", is_foreign ? "foreign" : "own", length == 4 && memcmp(magic + 1, "ELF", 3) == 0 ? "program" : "nothing");
    /* A program that somebody runs at the moment is busy, which passes. What counts is whether it will ever be possible. */
    struct statvfs mount;
    fstatvfs(atoi(number), &mount);
    int seals = fcntl(atoi(number), F_GET_SEALS);
    printf("%s\n", (mount.f_flag & ST_RDONLY) || (seals > 0 && (seals & F_SEAL_WRITE)) ? "sealed" : "NOT SEALED");
    int written = open(path, O_WRONLY);
    tell("rewrite", written < 0 ? -1 : pwrite(written, "\177ELF", 4, 0));
}

int main(int count, char **words) {
    if (count < 2) return 2;
    if (strcmp(words[1], "calls") == 0) calls();
    else if (strcmp(words[1], "keyring") == 0) keyring();
    else if (strcmp(words[1], "with-key") == 0) with_key(words + 2);
    else if (strcmp(words[1], "spy") == 0) spy();
    else if (strcmp(words[1], "rewrite") == 0) rewrite(words[2]);
    return 0;
}
