// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A TCG plugin of qemu: instructions, data accesses, bytes read and written, and
 * misses in modelled data caches, by phase. A phase begins at the guest's
 * instruction nopl 0x454d57NN(%rax) with NN != 0, and ends at the one with NN = 0
 * (guest/measure.c). With fn=NN no caches, but instructions by translated block.
 *
 *	qemu-system-x86_64 ... -plugin cachesim.so,out=FILE[,fn=NN]
 *
 * The caches are LRU and physical: L1D 32 KiB of 8 ways, L2 1 MiB of 16, last
 * level 16 MiB of 16. Debian ships no header of the interface, so what is used
 * of its version 1 is declared here.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct info;
struct tb;
struct insn;
struct hwaddr;
typedef uint64_t plugin_id;
typedef uint32_t meminfo;

EXPORT int qemu_plugin_version = 1;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
size_t qemu_plugin_tb_n_insns(const struct tb *);
struct insn *qemu_plugin_tb_get_insn(const struct tb *, size_t);
const void *qemu_plugin_insn_data(const struct insn *);
size_t qemu_plugin_insn_size(const struct insn *);
uint64_t qemu_plugin_insn_vaddr(const struct insn *);
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *, void (*)(unsigned, void *), int,
					    void *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct insn *,
				      void (*)(unsigned, meminfo, uint64_t, void *), int, int,
				      void *);
struct hwaddr *qemu_plugin_get_hwaddr(meminfo, uint64_t);
bool qemu_plugin_hwaddr_is_io(const struct hwaddr *);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct hwaddr *);
unsigned qemu_plugin_mem_size_shift(meminfo);
bool qemu_plugin_mem_is_store(meminfo);

#define LEVELS	3
#define LINE	6	/* log2 of a line's bytes */

struct cache {
	unsigned sets, ways;
	uint64_t *tag, *age;
};

struct counts {
	uint64_t instructions, accesses, read, written, misses[LEVELS];
};

struct block {
	struct block *next;
	uint64_t address, instructions, executed;
};

static struct cache caches[LEVELS];
static uint64_t now_age;
static struct counts now, begun;
static int phase, by_function = -1;
static struct block *blocks;
static FILE *out;

static void make(struct cache *c, unsigned kib, unsigned ways)
{
	size_t lines = kib * 1024ull >> LINE;

	c->ways = ways;
	c->sets = lines / ways;
	c->tag = malloc(lines * sizeof *c->tag);
	memset(c->tag, 0xff, lines * sizeof *c->tag);
	c->age = calloc(lines, sizeof *c->age);
}

static bool hit(struct cache *c, uint64_t line)
{
	unsigned first = line % c->sets * c->ways, oldest = first;

	for (unsigned i = first; i < first + c->ways; i++) {
		if (c->tag[i] == line) {
			c->age[i] = ++now_age;
			return true;
		}
		if (c->age[i] < c->age[oldest])
			oldest = i;
	}
	c->tag[oldest] = line;
	c->age[oldest] = ++now_age;
	return false;
}

static void on_access(unsigned cpu, meminfo info, uint64_t address, void *unused)
{
	struct hwaddr *where;
	uint64_t line;

	if (!phase)
		return;
	where = qemu_plugin_get_hwaddr(info, address);
	if (!where || qemu_plugin_hwaddr_is_io(where))
		return;
	line = qemu_plugin_hwaddr_phys_addr(where) >> LINE;
	now.accesses++;
	*(qemu_plugin_mem_is_store(info) ? &now.written : &now.read) +=
		1ull << qemu_plugin_mem_size_shift(info);
	for (int i = 0; i < LEVELS && !hit(&caches[i], line); i++)
		now.misses[i]++;
}

static void on_block(unsigned cpu, void *arg)
{
	struct block *b = arg;

	if (phase == by_function)
		b->executed += b->instructions;
}

static void print_blocks(void)
{
	for (struct block *b = blocks; b; b = b->next) {
		if (b->executed)
			fprintf(out, "FN %llx %llu\n", (unsigned long long)b->address,
				(unsigned long long)b->executed);
		b->executed = 0;
	}
}

static void on_mark(unsigned cpu, void *arg)
{
	const uint64_t *end = (uint64_t *)&now, *start = (uint64_t *)&begun;
	int number = (intptr_t)arg;

	if (number) {
		phase = number;
		begun = now;
		return;
	}
	if (!phase)
		return;
	fprintf(out, "PHASE %d", phase);
	for (size_t i = 0; i < sizeof now / sizeof *end; i++)
		fprintf(out, " %llu", (unsigned long long)(end[i] - start[i]));
	fprintf(out, "\n");
	if (phase == by_function)
		print_blocks();
	fflush(out);
	phase = 0;
}

static void on_translation(plugin_id id, struct tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb);

	if (by_function > 0) {
		struct block *b = calloc(1, sizeof *b);

		b->address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
		b->instructions = n;
		b->next = blocks;
		blocks = b;
		qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, 0, b);
	}
	for (size_t i = 0; i < n; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint8_t *code = qemu_plugin_insn_data(insn);

		if (qemu_plugin_insn_size(insn) == 7 && !memcmp(code, "\x0f\x1f\x80", 3) &&
		    !memcmp(code + 4, "WME", 3))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, 0,
							       (void *)(intptr_t)code[3]);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, 0, &now.instructions, 1);
		if (by_function < 0)
			qemu_plugin_register_vcpu_mem_cb(insn, on_access, 0, 3, NULL);
	}
}

EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv)
{
	out = stderr;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
		else if (!strncmp(argv[i], "fn=", 3))
			by_function = atoi(argv[i] + 3);
	}
	if (!out)
		return -1;
	make(&caches[0], 32, 8);
	make(&caches[1], 1024, 16);
	make(&caches[2], 16384, 16);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
