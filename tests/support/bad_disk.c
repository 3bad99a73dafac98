/* Runs a program, and everything that it starts, for which system calls on one directory are slow or fail.
 *
 *     bad_disk DIRECTORY RULES PROGRAM [ARGUMENT]...
 *
 * DIRECTORY may be a shell's pattern, for several. RULES is a file with one line for each kind of call: `KIND DELAY_MS FAILS_EVERY ERRNO`. It is read again for each call,
 * so that a test can change it under a program that runs; without it nothing happens to anybody. FAILS_EVERY 0: never.
 *
 *     create  a file is made          write  something is written into a file    sync  of a file or of a directory
 *     name    a file gets its name    open   a file or directory is opened       read  something is read from a file
 *     flush   what a sync takes, beside that, for every MiB that was written since the last one
 *
 * The kernel asks a supervisor before it carries out a call (seccomp, user notification): so it does not matter how a
 * program makes its calls, and no privilege is needed. The program keeps the process id of whoever called this. The
 * supervisor ends when nobody is left to be supervised.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "which architecture is this?"
#endif

#define PATH_BYTES 4096
/* More than the kernel will ever need for its side of the structures. */
#define NOTICE_BYTES 1024

enum kind { CREATE, WRITE, SYNC, NAME, OPEN, READ, FLUSH, KINDS };
static const char *const kind_names[KINDS] = {"create", "write", "sync", "name", "open", "read", "flush"};

struct rule {
    unsigned delay_ms, fails_every;
    int error;
};

/* Known for the whole life of a supervisor. */
static const char *directory, *rules;
static int listener;
static unsigned calls_seen[KINDS];
static unsigned long long unflushed;

static void die(const char *what) {
    perror(what);
    exit(71);
}

static int install_filter(void) {
#define NOTIFY_ON(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        NOTIFY_ON(openat),
        NOTIFY_ON(write),
        NOTIFY_ON(pread64),
        NOTIFY_ON(fsync),
        NOTIFY_ON(fdatasync),
        NOTIFY_ON(renameat2),
        NOTIFY_ON(linkat),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) die("no_new_privs");
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    if (fd < 0) die("seccomp");
    return (int)fd;
}

static void send_fd(int socket, int fd) {
    char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (sendmsg(socket, &message, 0) != 1) die("sendmsg");
}

static int receive_fd(int socket) {
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header;
    int fd;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) die("recvmsg");
    header = CMSG_FIRSTHDR(&message);
    if (header == NULL) die("nothing to supervise");
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

static enum kind kind_of(const struct seccomp_data *call) {
    switch (call->nr) {
    case SYS_openat: return call->args[2] & O_CREAT ? CREATE : OPEN;
    case SYS_write: return WRITE;
    case SYS_pread64: return READ;
    case SYS_renameat2:
    case SYS_linkat: return NAME;
    default: return SYNC;
    }
}

/* Whether the first argument, a descriptor in all of these calls, leads to the directory or below it. */
static int is_there(const struct seccomp_notif *notice) {
    char link[64], path[PATH_BYTES];
    snprintf(link, sizeof link, "/proc/%u/fd/%d", notice->pid, (int)notice->data.args[0]);
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    if (bytes < 0) return 0;
    path[bytes] = 0;
    return fnmatch(directory, path, FNM_LEADING_DIR) == 0;
}

static struct rule rule_for(enum kind kind) {
    struct rule rule = {0, 0, 0}, found;
    char name[16];
    FILE *file = fopen(rules, "re");
    if (file == NULL) return rule;
    while (fscanf(file, "%15s %u %u %d", name, &found.delay_ms, &found.fails_every, &found.error) == 4)
        if (strcmp(name, kind_names[kind]) == 0) rule = found;
    fclose(file);
    return rule;
}

struct answer {
    unsigned delay_ms;
    struct seccomp_notif_resp response;
    char room[NOTICE_BYTES];
};

static void *give(void *given) {
    struct answer *answer = given;
    if (answer->delay_ms > 0) usleep(answer->delay_ms * 1000);
    /* Who asked may have been killed meanwhile. */
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer->response);
    free(answer);
    return NULL;
}

static void judge(const struct seccomp_notif *notice) {
    struct answer *answer = calloc(1, sizeof *answer);
    if (answer == NULL) die("calloc");
    answer->response.id = notice->id;
    answer->response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    if (is_there(notice)) {
        enum kind kind = kind_of(&notice->data);
        struct rule rule = rule_for(kind);
        answer->delay_ms = rule.delay_ms;
        if (kind == WRITE) unflushed += notice->data.args[2];
        if (kind == SYNC) {
            answer->delay_ms += rule_for(FLUSH).delay_ms * (unsigned)(unflushed >> 20);
            unflushed = 0;
        }
        if (rule.fails_every > 0 && ++calls_seen[kind] % rule.fails_every == 0) {
            answer->response.flags = 0;
            answer->response.error = -rule.error;
        }
    }
    pthread_t thread;
    if (answer->delay_ms > 0 && pthread_create(&thread, NULL, give, answer) == 0)
        pthread_detach(thread);
    else
        give(answer);
}

static void supervise(int socket) {
    char notice[NOTICE_BYTES];
    int nothing = open("/dev/null", O_RDWR);
    if (setsid() < 0 || chdir("/") != 0 || nothing < 0) die("leaving");
    listener = receive_fd(socket);
    for (int fd = 0; fd < 3; fd++) dup2(nothing, fd);
    for (;;) {
        struct pollfd wait = {.fd = listener, .events = POLLIN};
        if (poll(&wait, 1, -1) < 0 && errno != EINTR) exit(71);
        if (wait.revents & (POLLHUP | POLLERR)) exit(0);
        memset(notice, 0, sizeof notice);
        if (wait.revents & POLLIN && ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notice) == 0)
            judge((const struct seccomp_notif *)notice);
    }
}

int main(int count, char **arguments) {
    int sockets[2];
    if (count < 4) {
        fprintf(stderr, "usage: %s DIRECTORY RULES PROGRAM [ARGUMENT]...\n", arguments[0]);
        return 64;
    }
    directory = arguments[1];
    rules = arguments[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) die("socketpair");
    pid_t supervisor = fork();
    if (supervisor < 0) die("fork");
    if (supervisor == 0) {
        close(sockets[0]);
        supervise(sockets[1]);
    }
    close(sockets[1]);
    int fd = install_filter();
    send_fd(sockets[0], fd);
    close(fd);
    close(sockets[0]);
    execv(arguments[3], arguments + 3);
    die(arguments[3]);
}
