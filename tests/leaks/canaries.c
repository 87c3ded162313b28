// SPDX-License-Identifier: GPL-2.0-or-later
// Puts 1,000 canaries, markers of 16 bytes, in each of the places that secrets are in, and waits for the crash.
//
// A canary is made of a seed, its place and its number (see scan.py, which makes the same ones); it has no byte 0,
// so that it may stand in an environment. Started as "canaries SEED"; "canaries wait" only waits.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define N 1000
#define SIZE 16
#define STRIDE 64

enum place { HEAP, CACHE, TMPFS, PIPE, TTY, SOCKET, KEYRING, DM_CRYPT, FREED_SLAB, ENVIRONMENT, KERNEL_STACK };

static uint64_t seed;

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void canary(enum place place, int number, unsigned char *to)
{
	for (int half = 0; half < 2; half++) {
		uint64_t x = mix(seed ^ mix((uint64_t)place << 32 | (uint64_t)number << 1 | half));

		memcpy(to + 8 * half, &x, 8);
	}
	for (int i = 0; i < SIZE; i++)
		if (!to[i])
			to[i] = 0x5a;
}

static void must(int good, const char *what)
{
	if (!good) {
		printf("@@FAILED %s: %m\n", what);
		fflush(stdout);
	}
}

// All canaries of a place from first on, back to back.
static unsigned char *row(enum place place, int first, int n)
{
	unsigned char *all = malloc(n * SIZE);

	for (int i = 0; i < n; i++)
		canary(place, first + i, all + i * SIZE);
	return all;
}

static void forget(unsigned char *all, int n)
{
	explicit_bzero(all, n * SIZE);
	free(all);
}

static void in_heap(void)
{
	unsigned char *all = malloc(N * STRIDE);

	for (int i = 0; i < N; i++)
		canary(HEAP, i, all + i * STRIDE);
}

static void in_file(enum place place, const char *path)
{
	static unsigned char all[N * STRIDE];
	int fd = open(path, O_CREAT | O_RDWR, 0600);

	for (int i = 0; i < N; i++)
		canary(place, i, all + i * STRIDE);
	must(fd >= 0 && write(fd, all, sizeof(all)) == sizeof(all) && !fsync(fd), path);
	explicit_bzero(all, sizeof(all));
}

static void in_pipe(void)
{
	int fds[2];
	unsigned char *all = row(PIPE, 0, N);

	must(!pipe(fds) && write(fds[1], all, N * SIZE) == N * SIZE, "pipe");
	forget(all, N);
}

// Half of them wait in the line discipline or before it, half were read.
static void in_tty(void)
{
	static unsigned char got[125 * SIZE];

	for (int i = 0; i < 8; i++) {
		struct termios raw;
		int fd = posix_openpt(O_RDWR | O_NOCTTY), other;
		unsigned char *all = row(TTY, i * 125, 125);

		must(fd >= 0 && !grantpt(fd) && !unlockpt(fd), "ptmx");
		other = open(ptsname(fd), O_RDWR | O_NOCTTY);
		must(other >= 0 && !tcgetattr(other, &raw), "pts");
		cfmakeraw(&raw);
		tcsetattr(other, TCSANOW, &raw);
		must(write(fd, all, 125 * SIZE) == 125 * SIZE, "write to a terminal");
		usleep(100000);
		if (i % 2) {
			must(read(other, got, sizeof(got)) > 0, "read from a terminal");
			explicit_bzero(got, sizeof(got));
		}
		forget(all, 125);
	}
}

static void in_socket(void)
{
	int unix_fds[2], out, in, listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(7777) };
	unsigned char *all = row(SOCKET, 0, N);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, unix_fds), "socketpair");
	must(write(unix_fds[0], all, 400 * SIZE) == 400 * SIZE, "write to a socket");
	must(!bind(listener, (void *)&at, sizeof(at)) && !listen(listener, 1), "listen");
	out = socket(AF_INET, SOCK_STREAM, 0);
	must(!connect(out, (void *)&at, sizeof(at)), "connect");
	in = accept(listener, NULL, NULL);
	must(in >= 0 && write(out, all + 400 * SIZE, 300 * SIZE) == 300 * SIZE, "send by TCP");
	in = socket(AF_INET, SOCK_DGRAM, 0);
	must(!bind(in, (void *)&at, sizeof(at)), "bind");
	for (int i = 700; i < N; i += 50)
		must(sendto(in, all + i * SIZE, 50 * SIZE, 0, (void *)&at, sizeof(at)) == 50 * SIZE, "send by UDP");
	forget(all, N);
}

static void in_keyring(void)
{
	for (int i = 0; i < N; i++) {
		unsigned char one[SIZE];
		char name[32];

		sprintf(name, "canary:%d", i);
		canary(KEYRING, i, one);
		must(syscall(SYS_add_key, i % 2 ? "logon" : "user", name, one, SIZE, -2) > 0, "add_key");
		explicit_bzero(one, SIZE);
	}
}

static void dm(int fd, unsigned long request, const char *name, const char *table, const char *key)
{
	static char buffer[16384];
	struct dm_ioctl *head = (void *)buffer;
	struct dm_target_spec *target = (void *)(head + 1);

	memset(buffer, 0, sizeof(buffer));
	*head = (struct dm_ioctl){ .version = { DM_VERSION_MAJOR, 0, 0 }, .data_size = sizeof(buffer),
				   .data_start = sizeof(*head), .target_count = table != NULL };
	strcpy(head->name, name);
	if (table) {
		head->flags = DM_SECURE_DATA_FLAG;
		target->length = 8;
		strcpy(target->target_type, "crypt");
		sprintf((char *)(target + 1), "%s %s 0 /dev/vdb 0", table, key);
	}
	must(!ioctl(fd, request, buffer), name);
	explicit_bzero(buffer, sizeof(buffer));
}

// Fifteen devices with 64 keys each, and ten with a key of 64 bytes.
static void in_dm_crypt(void)
{
	int fd = open("/dev/mapper/control", O_RDWR), at = 0;

	for (int i = 0; i < 25; i++) {
		int n = i < 15 ? 64 : 4;
		unsigned char *all = row(DM_CRYPT, at, n);
		char *key = calloc(1, n * SIZE * 2 + 1), name[16];

		for (int j = 0; j < n * SIZE; j++)
			sprintf(key + 2 * j, "%02x", all[j]);
		sprintf(name, "canary%d", i);
		dm(fd, DM_DEV_CREATE, name, NULL, NULL);
		dm(fd, DM_TABLE_LOAD, name, i < 15 ? "aes:64-cbc-lmk" : "aes-xts-plain64", key);
		dm(fd, DM_DEV_SUSPEND, name, NULL, NULL);
		explicit_bzero(key, n * SIZE * 2);
		forget(all, n);
		at += n;
	}
}

// Messages that were taken, between such as wait: their memory is free, and their slabs are not.
static void in_freed_slab(void)
{
	struct { long type; unsigned char text[200]; } message;
	int queues[4];

	for (int i = 0; i < 2 * N; i++) {
		struct msqid_ds limits;
		int *queue = &queues[i / 500];

		if (i % 500 == 0) {
			*queue = msgget(IPC_PRIVATE, 0600);
			must(*queue >= 0 && !msgctl(*queue, IPC_STAT, &limits), "msgget");
			limits.msg_qbytes = 1 << 20;
			must(!msgctl(*queue, IPC_SET, &limits), "msgctl");
		}
		memset(&message, 0, sizeof(message));
		message.type = 1 + i % 2;
		if (i % 2)
			canary(FREED_SLAB, i / 2, message.text + 100);
		must(!msgsnd(*queue, &message, sizeof(message.text), IPC_NOWAIT), "msgsnd");
	}
	for (int i = 0; i < N; i++)
		must(msgrcv(queues[i / 250], &message, sizeof(message.text), 2, IPC_NOWAIT) > 0, "msgrcv");
	explicit_bzero(&message, sizeof(message));
}

static void in_environment(void)
{
	char **all = calloc(N + 1, sizeof(*all)), *arguments[] = { "canaries", "wait", NULL };

	for (int i = 0; i < N; i++) {
		all[i] = calloc(1, 32);
		sprintf(all[i], "V%04d=", i);
		canary(ENVIRONMENT, i, (unsigned char *)all[i] + 6);
	}
	if (!fork()) {
		execve("/canaries", arguments, all);
		_exit(1);
	}
	for (int i = 0; i < N; i++)
		explicit_bzero(all[i], 32);
}

// A system call copies its argument to the stack, fails, and leaves it there; then the thread sleeps.
static void *on_stack(void *argument)
{
	int first = (int)(intptr_t)argument, n = first + 20 > N ? N - first : 20;
	struct sembuf operations[60] = { 0 };
	static int queue = -1;

	if (queue < 0)
		queue = semget(IPC_PRIVATE, 1, 0600);
	for (int i = 0; i < n; i++)
		canary(KERNEL_STACK, first + i, (unsigned char *)operations + i * SIZE);
	semop(queue, operations, 60);
	explicit_bzero(operations, sizeof(operations));
	for (;;)
		pause();
	return NULL;
}

static void in_kernel_stack(void)
{
	for (int i = 0; i < N; i += 20) {
		pthread_t thread;
		pthread_attr_t small;

		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 65536);
		must(!pthread_create(&thread, &small, on_stack, (void *)(intptr_t)i), "thread");
		usleep(10000);
	}
}

int main(int argc, char **argv)
{
	if (argc < 2 || !strcmp(argv[1], "wait"))
		for (;;)
			pause();
	seed = strtoull(argv[1], NULL, 10);
	in_heap();
	in_file(CACHE, "/data/canaries");
	in_file(TMPFS, "/ram/canaries");
	in_pipe();
	in_tty();
	in_keyring();
	in_dm_crypt();
	in_environment();
	in_socket();
	in_kernel_stack();
	in_freed_slab();
	sleep(1);
	printf("@@READY\n");
	fflush(stdout);
	for (;;)
		pause();
}
