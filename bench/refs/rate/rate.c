/* A load at a constant rate, free of coordinated omission.
 *
 * usage: rate PORT PATH TOKENS|- CONNECTIONS RATE SECONDS WARMUP
 *
 * Request i is due at start + i / RATE, whatever became of those before. One that finds no free connection waits in a
 * queue, and its latency counts from when it was due: an answer that comes late makes those behind it late as well, as
 * it does for people (Gil Tene, wrk2). Prints one line of JSON; latencies in microseconds. HTTP/1.1 with keep-alive
 * and answers that have a Content-Length; anything but 200 is an error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_US = 5000000, BUFFER = 262144 };

struct conn {
	int fd;
	uint64_t due;      /* of the request under way, ns; 0: free */
	size_t have, want; /* bytes of the answer; want 0: head not whole */
	char buffer[BUFFER];
};

static uint32_t histogram[MAX_US + 1];
static char **tokens;
static size_t token_count, token_at;
static const char *path;
static int port;

static uint64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
	perror(what);
	exit(1);
}

static void load_tokens(const char *file) {
	if (!strcmp(file, "-")) return;
	FILE *in = fopen(file, "r");
	if (!in) die(file);
	char *line = NULL;
	size_t room = 0, cap = 0;
	ssize_t n;
	while ((n = getline(&line, &room, in)) > 0) {
		if (line[n - 1] == '\n') line[n - 1] = 0;
		if (token_count == cap) {
			cap = cap ? cap * 2 : 1024;
			tokens = realloc(tokens, cap * sizeof *tokens);
			if (!tokens) die("realloc");
		}
		tokens[token_count++] = strdup(line);
	}
	free(line);
	fclose(in);
}

static void ask(struct conn *c, uint64_t due) {
	char request[16384];
	const char *token = token_count ? tokens[token_at++ % token_count] : NULL;
	int n = snprintf(request, sizeof request,
		"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench/1\r\nAccept: */*\r\n%s%s%s\r\n", path, port,
		token ? "Authorization: Bearer " : "", token ? token : "", token ? "\r\n" : "");
	c->due = due;
	c->have = c->want = 0;
	if (write(c->fd, request, (size_t)n) != n) die("write");
}

/* Whether the answer is whole. */
static int whole(struct conn *c, long *errors) {
	if (!c->want) {
		char *end = memmem(c->buffer, c->have, "\r\n\r\n", 4);
		if (!end) return 0;
		if (c->have < 12 || memcmp(c->buffer + 9, "200", 3)) ++*errors;
		*end = 0;
		char *length = strcasestr(c->buffer, "\ncontent-length:");
		c->want = (size_t)(end + 4 - c->buffer) + (length ? strtoul(length + 16, NULL, 10) : 0);
		if (c->want > BUFFER) {
			fprintf(stderr, "the answer is too long\n");
			exit(1);
		}
	}
	return c->have >= c->want;
}

static double percentile(uint64_t total, double share) {
	uint64_t rank = (uint64_t)((double)total * share), seen = 0;
	for (int i = 0; i <= MAX_US; i++) {
		seen += histogram[i];
		if (seen > rank) return i;
	}
	return MAX_US;
}

int main(int argc, char **argv) {
	if (argc != 8) {
		fprintf(stderr, "usage: rate PORT PATH TOKENS|- CONNECTIONS RATE SECONDS WARMUP\n");
		return 2;
	}
	port = atoi(argv[1]);
	path = argv[2];
	load_tokens(argv[3]);
	int n = atoi(argv[4]);
	double rate = atof(argv[5]), seconds = atof(argv[6]), warmup = atof(argv[7]);
	struct conn *conns = calloc((size_t)n, sizeof *conns);
	struct conn **idle = calloc((size_t)n, sizeof *idle);
	int free_count = 0, poller = epoll_create1(0);
	if (!conns || !idle || poller < 0) die("start");
	for (int i = 0; i < n; i++) {
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
		to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		int one = 1;
		conns[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		if (conns[i].fd < 0 || connect(conns[i].fd, (struct sockaddr *)&to, sizeof to)) die("connect");
		setsockopt(conns[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		fcntl(conns[i].fd, F_SETFL, O_NONBLOCK);
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = &conns[i]};
		epoll_ctl(poller, EPOLL_CTL_ADD, conns[i].fd, &event);
		idle[free_count++] = &conns[i];
	}
	uint64_t start = now_ns(), counted_from = start + (uint64_t)(warmup * 1e9);
	uint64_t end = counted_from + (uint64_t)(seconds * 1e9), due = 0, asked = 0, counted = 0, worst = 0;
	long errors = 0;
	double gap = 1e9 / rate;
	for (;;) {
		uint64_t now = now_ns();
		while (free_count && (due = start + (uint64_t)((double)asked * gap)) <= now && due < end) {
			ask(idle[--free_count], due);
			asked++;
		}
		if (now >= end && free_count == n) break;
		if (now >= end + 5000000000u) {
			fprintf(stderr, "answers are missing\n");
			return 1;
		}
		due = start + (uint64_t)((double)asked * gap);
		uint64_t wait = !free_count || due >= end ? 1000000 : due > now ? due - now : 0;
		struct timespec timeout = {.tv_sec = 0, .tv_nsec = (long)(wait > 900000000 ? 900000000 : wait)};
		struct epoll_event events[256];
		int ready = epoll_pwait2(poller, events, 256, &timeout, NULL);
		if (ready < 0 && errno != EINTR) die("epoll_pwait2");
		for (int i = 0; i < ready; i++) {
			struct conn *c = events[i].data.ptr;
			ssize_t got = read(c->fd, c->buffer + c->have, BUFFER - c->have);
			if (got < 0 && errno == EAGAIN) continue;
			if (got <= 0) {
				fprintf(stderr, "the connection ended\n");
				return 1;
			}
			c->have += (size_t)got;
			if (!c->due || !whole(c, &errors)) continue;
			if (c->due >= counted_from) {
				uint64_t us = (now_ns() - c->due) / 1000;
				histogram[us > MAX_US ? MAX_US : us]++;
				if (us > worst) worst = us;
				counted++;
			}
			c->due = 0;
			idle[free_count++] = c;
		}
	}
	printf("{\"rate\":%.0f,\"requests\":%lu,\"errors\":%ld,\"p50\":%.0f,\"p90\":%.0f,\"p99\":%.0f,\"p999\":%.0f,\"max\":%lu}\n",
		rate, (unsigned long)counted, errors, percentile(counted, .5), percentile(counted, .9), percentile(counted, .99),
		percentile(counted, .999), (unsigned long)worst);
	return 0;
}
