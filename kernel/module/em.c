// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * extmeta as a module of an unmodified kernel: words by (mm, 2 MiB range). Fprobes
 * on copy_page_range, unmap_page_range and move_page_tables keep them in step with
 * the page tables at fork, zap and mremap.
 *
 * There is no flag in a PTE: a word is valid if it is not 0, and a word is only as
 * good as the three probes. UFFDIO_MOVE and collapses are not probed. Fork shares
 * the words of a range, and who writes first copies them.
 */
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/fprobe.h>
#include <linux/hashtable.h>
#include <linux/miscdevice.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "extmeta.h"

#define BITS	12

struct em_range {
	struct hlist_node node;
	struct mm_struct *mm;
	unsigned long index;	/* address >> PMD_SHIFT */
	u64 *words;		/* a page, which ranges may share after fork */
};

static DEFINE_HASHTABLE(ranges, BITS);
/* protects all that follows; nothing sleeps under it */
static DEFINE_SPINLOCK(lock);
static unsigned long nranges;
static struct extmeta_stat stat = { .form = EXTMETA_MODULE };

static struct hlist_head *bucket(struct mm_struct *mm, unsigned long index)
{
	return &ranges[hash_long((unsigned long)mm ^ index, BITS)];
}

static struct em_range *find(struct mm_struct *mm, unsigned long index)
{
	struct em_range *r;

	hlist_for_each_entry(r, bucket(mm, index), node)
		if (r->mm == mm && r->index == index)
			return r;
	return NULL;
}

static u64 *words_get(void)
{
	u64 *words = (u64 *)get_zeroed_page(GFP_ATOMIC);

	if (words) {
		stat.live++;
		stat.alloced++;
	}
	return words;
}

static void words_put(u64 *words)
{
	struct page *page = virt_to_page(words);

	if (put_page_testzero(page)) {
		__folio_put(page_folio(page));
		stat.live--;
	}
}

/* takes the reference to @words, also if it fails */
static struct em_range *add(struct mm_struct *mm, unsigned long index, u64 *words)
{
	struct em_range *r = words ? kmalloc(sizeof(*r), GFP_ATOMIC) : NULL;

	if (!r) {
		if (words)
			words_put(words);
		pr_warn_once("extmeta: out of memory, words are lost\n");
		return NULL;
	}
	r->mm = mm;
	r->index = index;
	r->words = words;
	hlist_add_head(&r->node, bucket(mm, index));
	nranges++;
	return r;
}

static void drop(struct em_range *r)
{
	hlist_del(&r->node);
	words_put(r->words);
	kfree(r);
	nranges--;
}

/* words of a range that may be written, or NULL */
static u64 *own(struct em_range *r)
{
	u64 *words;

	if (!r || page_ref_count(virt_to_page(r->words)) == 1)
		return r ? r->words : NULL;
	words = words_get();
	if (!words)
		return NULL;
	copy_page(words, r->words);
	stat.copied++;
	words_put(r->words);
	r->words = words;
	return words;
}

static u64 *own_at(struct mm_struct *mm, unsigned long index)
{
	return own(find(mm, index) ?: add(mm, index, words_get()));
}

static void em_fork(struct vm_area_struct *dst, struct vm_area_struct *src)
{
	unsigned long i;

	for (i = src->vm_start >> PMD_SHIFT; i <= (src->vm_end - 1) >> PMD_SHIFT; i++) {
		struct em_range *r = find(src->vm_mm, i);

		if (!r || find(dst->vm_mm, i))
			continue;
		get_page(virt_to_page(r->words));
		if (add(dst->vm_mm, i, r->words))
			stat.shared++;
	}
}

static void em_zap(struct mm_struct *mm, unsigned long addr, unsigned long end)
{
	unsigned long next;

	for (; addr < end; addr = next) {
		struct em_range *r = find(mm, addr >> PMD_SHIFT);

		next = pmd_addr_end(addr, end);
		if (!r)
			continue;
		if (next - addr < PMD_SIZE && own(r))
			memset(r->words + pte_index(addr), 0,
			       ((next - addr) >> PAGE_SHIFT) * sizeof(u64));
		if (next - addr == PMD_SIZE || !memchr_inv(r->words, 0, PAGE_SIZE))
			drop(r);
	}
}

/* a whole range that gets to an empty place is linked there */
static bool relinked(struct em_range *r, unsigned long to, unsigned long len)
{
	if (len < PMD_SIZE || (to & ~PMD_MASK) || find(r->mm, to >> PMD_SHIFT))
		return false;
	hlist_del(&r->node);
	r->index = to >> PMD_SHIFT;
	hlist_add_head(&r->node, bucket(r->mm, r->index));
	return true;
}

static void em_move(struct mm_struct *mm, unsigned long addr, unsigned long to,
		    unsigned long len)
{
	unsigned long end = addr + len, next, a;

	for (; addr < end; to += next - addr, addr = next) {
		struct em_range *r = find(mm, addr >> PMD_SHIFT);

		next = pmd_addr_end(addr, end);
		if (!r || relinked(r, to, next - addr) || !own(r))
			continue;
		for (a = addr; a < next; a += PAGE_SIZE) {
			unsigned long at = to + (a - addr);
			u64 *words, word = r->words[pte_index(a)];

			if (!word)
				continue;
			words = own_at(mm, at >> PMD_SHIFT);
			r->words[pte_index(a)] = 0;
			if (words)
				words[pte_index(at)] = word;
		}
	}
}

static int on_fork(struct fprobe *fp, unsigned long ip, unsigned long ret,
		   struct pt_regs *regs, void *data)
{
	unsigned long flags;

	/* both mmap_locks are held for write, so before is as good as after */
	if (READ_ONCE(nranges)) {
		spin_lock_irqsave(&lock, flags);
		em_fork((void *)regs->di, (void *)regs->si);
		spin_unlock_irqrestore(&lock, flags);
	}
	return 0;
}

static int on_zap(struct fprobe *fp, unsigned long ip, unsigned long ret,
		  struct pt_regs *regs, void *data)
{
	struct vm_area_struct *vma = (void *)regs->si;
	unsigned long flags;

	if (READ_ONCE(nranges)) {
		spin_lock_irqsave(&lock, flags);
		em_zap(vma->vm_mm, regs->dx, regs->cx);
		spin_unlock_irqrestore(&lock, flags);
	}
	return 0;
}

static int on_move(struct fprobe *fp, unsigned long ip, unsigned long ret,
		   struct pt_regs *regs, void *data)
{
	struct vm_area_struct *vma = (void *)regs->di;
	unsigned long flags;

	/* a move that fails half-way moves back by a second call */
	if (READ_ONCE(nranges)) {
		spin_lock_irqsave(&lock, flags);
		em_move(vma->vm_mm, regs->si, regs->cx, regs->r8);
		spin_unlock_irqrestore(&lock, flags);
	}
	return 0;
}

static struct fprobe probes[] = {
	{ .entry_handler = on_fork },
	{ .entry_handler = on_zap },
	{ .entry_handler = on_move },
};
static const char *const probed[] = {
	"copy_page_range", "unmap_page_range", "move_page_tables",
};

/* the words of a part of one range */
static long em_part(unsigned long addr, unsigned long n, u64 *buf, bool set,
		    unsigned long long *done)
{
	struct em_range *r = find(current->mm, addr >> PMD_SHIFT);
	u64 *words = r ? r->words : NULL;
	unsigned long i;

	if (set) {
		words = own_at(current->mm, addr >> PMD_SHIFT);
		if (!words)
			return -ENOMEM;
	}
	for (i = 0; i < n; i++) {
		if (!set)
			buf[i] = words ? words[pte_index(addr) + i] : 0;
		else if (buf[i] != EXTMETA_KEEP)
			words[pte_index(addr) + i] = buf[i];
		*done += buf[i] && buf[i] != EXTMETA_KEEP;
	}
	return 0;
}

static long em_rw(struct extmeta_io *io, bool set)
{
	u64 __user *up = u64_to_user_ptr(io->words);
	unsigned long addr = io->start, end = addr + io->npages * PAGE_SIZE, next, flags;
	u64 *buf;
	long err = 0;

	if (addr & ~PAGE_MASK || end < addr || end > TASK_SIZE)
		return -EINVAL;
	buf = (u64 *)__get_free_page(GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	for (io->done = 0; addr < end && !err; addr = next) {
		unsigned long n;

		next = pmd_addr_end(addr, end);
		n = (next - addr) >> PAGE_SHIFT;
		if (set && copy_from_user(buf, up, n * sizeof(u64))) {
			err = -EFAULT;
			break;
		}
		mmap_read_lock(current->mm);
		spin_lock_irqsave(&lock, flags);
		err = em_part(addr, n, buf, set, &io->done);
		spin_unlock_irqrestore(&lock, flags);
		mmap_read_unlock(current->mm);
		if (!err && !set && copy_to_user(up, buf, n * sizeof(u64)))
			err = -EFAULT;
		up += n;
	}
	free_page((unsigned long)buf);
	return err;
}

static long em_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *up = (void __user *)arg;
	struct extmeta_io io;
	long err;

	switch (cmd) {
	case EXTMETA_IOC_MODE:
		return arg ? -EINVAL : 0;
	case EXTMETA_IOC_STAT:
		return copy_to_user(up, &stat, sizeof(stat)) ? -EFAULT : 0;
	case EXTMETA_IOC_SET:
	case EXTMETA_IOC_GET:
	case EXTMETA_IOC_PEEK:
		break;
	default:
		return -ENOTTY;
	}
	if (copy_from_user(&io, up, sizeof(io)))
		return -EFAULT;
	err = em_rw(&io, cmd == EXTMETA_IOC_SET);
	if (!err && copy_to_user(up, &io, sizeof(io)))
		err = -EFAULT;
	return err;
}

static const struct file_operations em_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = em_ioctl,
};

static struct miscdevice em_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "extmeta",
	.fops = &em_fops,
};

/* No exit: the words of living processes would be lost. */
static int __init em_init(void)
{
	int i, err = 0;

	for (i = 0; i < ARRAY_SIZE(probes) && !err; i++)
		err = register_fprobe(&probes[i], probed[i], NULL);
	if (!err)
		err = misc_register(&em_dev);
	if (err)
		while (--i >= 0)
			unregister_fprobe(&probes[i]);
	return err;
}
module_init(em_init);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("software words per page, without a patched kernel");
