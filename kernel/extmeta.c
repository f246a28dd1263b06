// SPDX-License-Identifier: MIT OR GPL-2.0
/* extmeta - side pages of PTE tables, and a device that reads and writes words. */
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/memcontrol.h>
#include <linux/miscdevice.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/module.h>
#include <linux/swapops.h>
#include <linux/extmeta.h>
#include <asm/pgalloc.h>
#include "extmeta_huge.h"
#include "extmeta_markers.h"

static atomic64_t em_live, em_alloced, em_copied, em_shared;
static atomic64_t em_lists, em_list_bytes;	/* slab objects, adaptive */

/* Words for the entries [first, first + nr) of a table, as SET has them. */
struct em_want {
	const u64 *words;
	unsigned int first, nr;
	/* adaptive counts them, and looks if all are the same word */
	unsigned int n;
	bool same;
	u64 word;
};

/* A side page is not zeroed: only the words of flagged PTEs are read. */
static void *side_alloc(void)
{
	struct page *page = alloc_page(GFP_KERNEL_ACCOUNT);

	if (!page)
		return NULL;
	lruvec_stat_add_folio(page_folio(page), NR_PAGETABLE);
	atomic64_inc(&em_live);
	atomic64_inc(&em_alloced);
	return page_address(page);
}

static void side_free(struct rcu_head *head)
{
	struct folio *folio = page_folio(container_of(head, struct page, rcu_head));

	lruvec_stat_sub_folio(folio, NR_PAGETABLE);
	atomic64_dec(&em_live);
	__folio_put(folio);
}

static void side_put(void *side)
{
	struct page *page = virt_to_page(side);

	/* em_peek() may still read it */
	if (put_page_testzero(page))
		call_rcu(&page->rcu_head, side_free);
}

/* VmPTE: a side page counts in each mm that has a link to it. */
static void account(struct mm_struct *mm, long bytes)
{
	atomic_long_add(bytes, &mm->pgtables_bytes);
}

static bool flagged(pte_t pte)
{
	return pte_present(pte) ? pte_ext(pte) : pte_swp_ext(pte);
}

#ifndef CONFIG_EXTMETA_ADJACENT

DEFINE_STATIC_KEY_FALSE(extmeta_count);
static unsigned int em_mode;

#ifdef CONFIG_EXTMETA_ADAPTIVE
#define SIDE(link)	((link) & GENMASK_ULL(51, 0))
#define COUNT(link)	((unsigned int)((link) >> 52))
#define ONE		(1ul << 52)
#else
#define SIDE(link)	((void *)((link) & PAGE_MASK))
#define COUNT(link)	((link) & ~PAGE_MASK)
#define ONE		1
#endif

unsigned int extmeta_flags(pte_t *ptep, unsigned int nr)
{
	unsigned int n = 0;

	for (; nr; nr--, ptep++)
		n += flagged(ptep_get(ptep));
	return n;
}

void extmeta_gone(struct mm_struct *mm, pte_t *ptep, unsigned int nr)
{
	struct ptdesc *pt = extmeta_table(ptep);
	unsigned long link = pt->pt_index;

	if (COUNT(link) > nr)
		WRITE_ONCE(pt->pt_index, link - nr * ONE);
	else if (nr && link)
		extmeta_unlink(mm, pt);
}

static void em_counted(struct mm_struct *mm, pte_t *ptep, int n)
{
	struct ptdesc *pt = extmeta_table(ptep);
	unsigned long link = pt->pt_index;

	if (!static_branch_unlikely(&extmeta_count))
		return;
	/* a bound: UFFDIO_MOVE and MADV_FREE leave it above the number of flags */
	n = min_t(int, n, PTRS_PER_PTE - COUNT(link));
	if (n > 0)
		WRITE_ONCE(pt->pt_index, link + n * ONE);
	else if (n < 0)
		extmeta_gone(mm, ptep, -n);
}

#ifdef CONFIG_EXTMETA_ADAPTIVE
#include "extmeta_containers.h"
#else

static bool side_is_shared(unsigned long link)
{
	int n = page_ref_count(virt_to_page(SIDE(link)));

	/* pairs with the full barrier of put_page_testzero() */
	smp_rmb();
	return n > 1;
}

static size_t link_bytes(unsigned long link)
{
	return PAGE_SIZE;
}

static void link_get(unsigned long link)
{
	get_page(virt_to_page(SIDE(link)));
}

static void link_put(unsigned long link)
{
	side_put(SIDE(link));
}

static unsigned long em_huge_link(u64 word)
{
	u64 *side = side_alloc();

	return side ? (unsigned long)memset64(side, word, PTRS_PER_PTE) | PTRS_PER_PTE : 0;
}

/*
 * dst_mm is not visible to anyone yet. The parent's mmap_lock is held for
 * write, so the parent's table gets no new link, but an rmap walk may unlink.
 */
int extmeta_fork_prepare(struct mm_struct *dst_mm, pmd_t *dst,
			 struct mm_struct *src_mm, pmd_t *src)
{
	bool share = em_mode & EXTMETA_FORK_SHARE;
	unsigned long link;
	struct ptdesc *pt;
	void *side = NULL;
	spinlock_t *ptl;
	pte_t *ptep;

	if (pte_alloc(dst_mm, dst))
		return -ENOMEM;
	pt = page_ptdesc(pmd_page(*dst));
	if (pt->pt_index)
		return 0;	/* another range of this table was copied before */
	if (!share) {
		side = side_alloc();
		if (!side)
			return -ENOMEM;
	}
	ptep = pte_offset_map_lock(src_mm, src, 0, &ptl);
	link = ptep ? extmeta_link(ptep) : 0;
	if (link && share) {
		side = SIDE(link);
		link_get(link);
		atomic64_inc(&em_shared);
	}
	if (link) {
		/* not all flagged PTEs may be copied: the count is a bound */
		account(dst_mm, PAGE_SIZE);
		WRITE_ONCE(pt->pt_index, (unsigned long)side | COUNT(link));
	}
	if (ptep)
		pte_unmap_unlock(ptep, ptl);
	if (!link && side)
		side_put(side);
	return 0;
}

void extmeta_fork_words(pte_t *dst, pte_t *src, unsigned int nr)
{
	u64 *to = extmeta_word(dst), *from = extmeta_word(src);

	if (SIDE(extmeta_link(dst)) != SIDE(extmeta_link(src)))
		memcpy(to, from, nr * sizeof(*to));
}

/* Give a table a side page of its own. Returns -EAGAIN if the table is gone. */
static int em_own(struct mm_struct *mm, pmd_t *pmd, struct em_want *want)
{
	unsigned long link;
	struct ptdesc *pt;
	void *new, *old;
	spinlock_t *ptl;
	pte_t *ptep;

	ptep = pte_offset_map_lock(mm, pmd, 0, &ptl);
	if (!ptep)
		return -EAGAIN;
	link = extmeta_link(ptep);
	pte_unmap_unlock(ptep, ptl);
	if (link && !side_is_shared(link))
		return 0;

	new = old = side_alloc();
	if (!new)
		return -ENOMEM;
	ptep = pte_offset_map_lock(mm, pmd, 0, &ptl);
	if (!ptep) {
		side_put(new);
		return -EAGAIN;
	}
	pt = extmeta_table(ptep);
	link = pt->pt_index;
	if (!link) {
		account(mm, PAGE_SIZE);
		WRITE_ONCE(pt->pt_index, (unsigned long)new);
		old = NULL;
	} else if (side_is_shared(link)) {
		old = SIDE(link);
		copy_page(new, old);
		atomic64_inc(&em_copied);
		/* em_peek() sees the words before the link */
		smp_store_release(&pt->pt_index, (unsigned long)new | COUNT(link));
	}
	pte_unmap_unlock(ptep, ptl);
	if (old)
		side_put(old);
	return 0;
}

int extmeta_move_prepare(struct mm_struct *mm, pmd_t *dst, pmd_t *src)
{
	/* an -EAGAIN is found by who takes the PTL next */
	return em_own(mm, dst, NULL) == -ENOMEM ? -ENOMEM : 0;
}

int extmeta_move_words(struct mm_struct *mm, pte_t *dst, pte_t *src,
		       unsigned int nr)
{
	unsigned long link = extmeta_link(dst);
	unsigned int n = 0;

	if (!link || side_is_shared(link))
		return -EAGAIN;
	if (static_branch_unlikely(&extmeta_count))
		n = extmeta_flags(src, nr);
	memcpy(extmeta_word(dst), extmeta_word(src), nr * sizeof(u64));
	if (n && extmeta_table(dst) != extmeta_table(src)) {
		em_counted(mm, dst, n);
		em_counted(mm, src, -n);
	}
	return 0;
}

int extmeta_uffd_move(pte_t *dst, pte_t *src)
{
	unsigned long link = extmeta_link(dst);

	if (!link || side_is_shared(link))
		return -EAGAIN;
	*extmeta_word(dst) = *extmeta_word(src);
	/* the move may still fail, so the source's count stays as a bound */
	em_counted(NULL, dst, 1);
	return 0;
}

/* Can words be written? After em_own(), a zap of the last word or a fork may come. */
static bool em_ready(pte_t *ptep, const struct em_want *want)
{
	unsigned long link = extmeta_link(ptep);

	return link && !side_is_shared(link);
}

static u64 em_word(unsigned long link, pte_t *ptep)
{
	return READ_ONCE(*(u64 *)(SIDE(link) + offset_in_page(ptep)));
}

static void em_store(unsigned long link, pte_t *ptep, u64 word)
{
	WRITE_ONCE(*(u64 *)(SIDE(link) + offset_in_page(ptep)), word);
}

#endif /* linked */

static u64 em_huge_word(unsigned long link)
{
	return em_word(link, NULL);
}

static void em_link_equal(struct ptdesc *pt, unsigned long link)
{
	WRITE_ONCE(pt->pt_index, link);
}

static int em_set_mode(unsigned long mode)
{
	if (mode > (EXTMETA_FORK_SHARE | EXTMETA_COUNT))
		return -EINVAL;
	if (IS_ENABLED(CONFIG_EXTMETA_LOOP) && mode != EXTMETA_FORK_COPY)
		return -EINVAL;
	em_mode = mode;
	if (mode & EXTMETA_COUNT)
		static_branch_enable(&extmeta_count);
	else
		static_branch_disable(&extmeta_count);
	return 0;
}

#else /* adjacent: nothing to allocate, nothing to link, but a huge PMD's word */

#define SIDE(link)	((void *)0)

static unsigned long em_huge_link(u64 word)
{
	return word;
}

static u64 em_huge_word(unsigned long link)
{
	return link;
}

static size_t link_bytes(unsigned long link)
{
	return 0;
}

static void link_get(unsigned long link)
{
}

static void link_put(unsigned long link)
{
}

/* The words of a table whose PTEs will all have the flag. */
static void em_link_equal(struct ptdesc *pt, unsigned long link)
{
	memset64(page_address(ptdesc_page(pt)) + PAGE_SIZE, link, PTRS_PER_PTE);
	pt->pt_index = 1;
}

void extmeta_fork_words(pte_t *dst, pte_t *src, unsigned int nr)
{
	extmeta_table(dst)->pt_index = 1;
	memcpy(extmeta_word(dst), extmeta_word(src), nr * sizeof(u64));
}

int extmeta_move_words(struct mm_struct *mm, pte_t *dst, pte_t *src,
		       unsigned int nr)
{
	extmeta_fork_words(dst, src, nr);
	return 0;
}

int extmeta_uffd_move(pte_t *dst, pte_t *src)
{
	extmeta_fork_words(dst, src, 1);
	return 0;
}

static int em_own(struct mm_struct *mm, pmd_t *pmd, struct em_want *want)
{
	return 0;
}

static bool em_ready(pte_t *ptep, const struct em_want *want)
{
	return true;
}

static u64 em_word(unsigned long link, pte_t *ptep)
{
	return READ_ONCE(*extmeta_word(ptep));
}

static void em_store(unsigned long link, pte_t *ptep, u64 word)
{
	WRITE_ONCE(*extmeta_word(ptep), word);
}

static int em_set_mode(unsigned long mode)
{
	return mode ? -EINVAL : 0;
}

static void em_counted(struct mm_struct *mm, pte_t *ptep, int n)
{
	extmeta_table(ptep)->pt_index = 1;
}

#endif

static void link_drop(struct mm_struct *mm, unsigned long link)
{
	account(mm, -(long)link_bytes(link));
	link_put(link);
}

/* The PTL is held, or nobody else can find the table. */
void extmeta_unlink(struct mm_struct *mm, struct ptdesc *pt)
{
	unsigned long link = pt->pt_index;

	WRITE_ONCE(pt->pt_index, 0);
	link_drop(mm, link);
}

/* ---- huge PMDs ---- */

static unsigned long *em_slot(pmd_t *pmd)
{
	return (unsigned long *)(READ_ONCE(extmeta_slots(pmd)->pt_index) +
				 offset_in_page(pmd));
}

/* The PMD's lock is held. */
static unsigned long em_slot_taken(pmd_t *pmd)
{
	unsigned long *slot = em_slot(pmd), link = *slot;

	WRITE_ONCE(*slot, 0);
	return link;
}

/* Give the PMD table its slots, which it keeps. */
int extmeta_huge_prepare(struct mm_struct *mm, pmd_t *pmd)
{
	struct ptdesc *pt = extmeta_slots(pmd);
	void *slots;

	if (READ_ONCE(pt->pt_index))
		return 0;
	slots = side_alloc();
	if (!slots)
		return -ENOMEM;
	clear_page(slots);
	if (cmpxchg(&pt->pt_index, 0, (unsigned long)slots))
		side_put(slots);
	else
		account(mm, PAGE_SIZE);
	return 0;
}

void extmeta_slots_free(struct mm_struct *mm, struct ptdesc *pt)
{
	void *slots = (void *)pt->pt_index;

	VM_WARN_ON_ONCE(memchr_inv(slots, 0, PAGE_SIZE));
	pt->pt_index = 0;
	account(mm, -(long)PAGE_SIZE);
	side_put(slots);
}

/* Both have the link. After a split, who writes a word gets one of its own: see em_own(). */
void extmeta_huge_fork(struct mm_struct *mm, pmd_t *dst, pmd_t *src)
{
	unsigned long link = *em_slot(src);

	link_get(link);
	account(mm, link_bytes(link));
	WRITE_ONCE(*em_slot(dst), link);
	atomic64_inc(&em_shared);
}

void extmeta_huge_gone(struct mm_struct *mm, pmd_t *pmd)
{
	link_drop(mm, em_slot_taken(pmd));
}

void extmeta_huge_move(pmd_t *dst, pmd_t *src)
{
	WRITE_ONCE(*em_slot(dst), em_slot_taken(src));
}

/* Nobody finds the table yet. One that a collapse took may still have a link. */
void extmeta_huge_split(struct mm_struct *mm, pmd_t *pmd, struct ptdesc *pt)
{
	ext_table_fini(mm, pt);
	em_link_equal(pt, em_slot_taken(pmd));
}

/* ---- file mappings: a marker has the flag of a PTE whose page is not mapped ---- */

/* *ptep is none, or a marker. */
void extmeta_leave_marker(struct mm_struct *mm, unsigned long addr, pte_t *ptep)
{
	pte_t pte = ptep_get(ptep);

	if (pte_none(pte))
		pte = make_pte_marker(0);
	set_pte_at(mm, addr, ptep, __pte(pte_val(pte) | _PAGE_SWP_EXTMETA));
}

void extmeta_keep(struct ext_kept *kept, pte_t *ptep)
{
	bitmap_zero(kept->flags, PTRS_PER_PTE);
	for (unsigned int i = 0; i < kept->nr; i++)
		if (flagged(ptep_get(ptep + i)))
			__set_bit(i, kept->flags);
}

void extmeta_kept(struct ext_kept *kept, struct mm_struct *mm,
		  unsigned long addr, pte_t *ptep)
{
	unsigned int i;

	for_each_set_bit(i, kept->flags, kept->nr)
		if (pte_none_mostly(ptep_get(ptep + i)))
			extmeta_leave_marker(mm, addr + i * PAGE_SIZE, ptep + i);
}

/* ---- the device ---- */

struct em_walk {
	u64 *buf;
	unsigned long base;
	unsigned long done;
	bool split;		/* a file's huge page, so its PTEs are none */
};

#define EM_UNMARKED	1	/* from em_set(): the VMA needs VM_EXTMETA */

static u64 *em_word_of(struct em_walk *w, unsigned long addr)
{
	return w->buf + ((addr - w->base) >> PAGE_SHIFT);
}

/*
 * One word for all pages of a huge PMD, or none for any. Returns -EAGAIN if that
 * is not what is asked, or the PMD is another: then it has to be split.
 */
static int em_set_huge(pmd_t *pmd, unsigned long addr, unsigned long end,
		       struct mm_walk *walk)
{
	struct em_walk *w = walk->private;
	u64 *words = em_word_of(w, addr);
	unsigned long link = 0, old = 0;
	spinlock_t *ptl;
	pmd_t was;

	if (end - addr != HPAGE_PMD_SIZE || *words == EXTMETA_KEEP ||
	    memcmp(words, words + 1, (HPAGE_PMD_NR - 1) * sizeof(u64)))
		return -EAGAIN;
	if (*words) {
		link = em_huge_link(*words);
		if (!link)
			return -ENOMEM;
		if (extmeta_huge_prepare(walk->mm, pmd)) {
			link_put(link);
			return -ENOMEM;
		}
	}
	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (!ptl || is_huge_zero_pmd(*pmd)) {
		if (ptl)
			spin_unlock(ptl);
		if (link)
			link_put(link);
		return -EAGAIN;
	}
	was = *pmd;
	if (ext_huge_flagged(was))
		old = *em_slot(pmd);
	if (link) {
		account(walk->mm, link_bytes(link));
		/* em_peek() sees the word before the link */
		smp_store_release(em_slot(pmd), link);
		w->done += HPAGE_PMD_NR;
	}
	if (!link != !old) {
		int bit = pmd_present(was) ? _PAGE_BIT_EXTMETA : _PAGE_BIT_SWP_EXTMETA;

		/* atomic, since the CPU may set A and D; em_peek() sees the link first */
		smp_mb();
		change_bit(bit, (unsigned long *)pmd);
	}
	if (!link && old)
		WRITE_ONCE(*em_slot(pmd), 0);
	if (old)
		link_drop(walk->mm, old);
	spin_unlock(ptl);
	return 0;
}

static int em_set(pmd_t *pmd, unsigned long addr, unsigned long end,
		  struct mm_walk *walk)
{
	struct em_walk *w = walk->private;
	struct em_want want = {
		em_word_of(w, addr), pte_index(addr), (end - addr) >> PAGE_SHIFT
	};
	pte_t *ptep, *start;
	spinlock_t *ptl;
	int err, delta = 0;

	if (!vma_is_anonymous(walk->vma)) {
		if (!(walk->vma->vm_flags & VM_EXTMETA))
			return EM_UNMARKED;
		w->split |= pmd_trans_huge(*pmd);
	} else if (pmd_trans_huge(*pmd) || is_swap_pmd(*pmd)) {
		err = em_set_huge(pmd, addr, end, walk);
		if (err != -EAGAIN)
			return err;
	}
	split_huge_pmd(walk->vma, pmd, addr);
	if (w->split && pte_alloc(walk->mm, pmd))
		return -ENOMEM;
	err = em_own(walk->mm, pmd, &want);
	if (err == -EAGAIN)
		goto again;
	if (err)
		return err;
	start = ptep = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
	if (!ptep)
		goto again;
	if (!em_ready(ptep, &want)) {
		pte_unmap_unlock(start, ptl);
		goto again;
	}
	for (; addr != end; addr += PAGE_SIZE, ptep++) {
		pte_t pte = ptep_get(ptep);
		u64 word = *em_word_of(w, addr);
		unsigned int bit;

		if (word == EXTMETA_KEEP)
			continue;
		if (pte_none(pte) && w->split && word) {
			pte = make_pte_marker(0);
			set_pte_at(walk->mm, addr, ptep, pte);
		} else if (pte_none(pte) || (is_pte_marker(pte) && !flagged(pte))) {
			continue;
		}
		bit = pte_present(pte) ? _PAGE_BIT_EXTMETA : _PAGE_BIT_SWP_EXTMETA;
		if (word) {
			em_store(extmeta_table(ptep)->pt_index, ptep, word);
			w->done++;
			if (!flagged(pte)) {
				/* em_peek() sees the word before the flag */
				smp_wmb();
				/* atomic, since the CPU may set A and D; no TLB flush */
				set_bit(bit, (unsigned long *)ptep);
				delta++;
			}
		} else if (flagged(pte)) {
			clear_bit(bit, (unsigned long *)ptep);
			if (is_pte_marker(pte) && !pte_marker_get(pte_to_swp_entry(pte)))
				pte_clear(walk->mm, addr, ptep);
			delta--;
		}
	}
	em_counted(walk->mm, start, delta);
	pte_unmap_unlock(start, ptl);
	return 0;
again:
	walk->action = ACTION_AGAIN;
	return 0;
}

/* The words of pages [addr, end) of a huge PMD. */
static void em_got_huge(struct em_walk *w, unsigned long addr, unsigned long end, u64 word)
{
	unsigned long nr = (end - addr) >> PAGE_SHIFT;

	if (word) {
		memset64(em_word_of(w, addr), word, nr);
		w->done += nr;
	}
}

static int em_get(pmd_t *pmd, unsigned long addr, unsigned long end,
		  struct mm_walk *walk)
{
	struct em_walk *w = walk->private;
	pte_t *ptep, *start;
	spinlock_t *ptl;

	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (ptl) {
		u64 word = ext_huge_flagged(*pmd) ? em_huge_word(*em_slot(pmd)) : 0;

		spin_unlock(ptl);
		em_got_huge(w, addr, end, word);
		return 0;
	}
	start = ptep = pte_offset_map_lock(walk->mm, pmd, addr, &ptl);
	if (!ptep) {
		walk->action = ACTION_AGAIN;
		return 0;
	}
	for (; addr != end; addr += PAGE_SIZE, ptep++) {
		if (flagged(ptep_get(ptep))) {
			*em_word_of(w, addr) = em_word(extmeta_table(ptep)->pt_index, ptep);
			w->done++;
		}
	}
	pte_unmap_unlock(start, ptl);
	return 0;
}

/*
 * The PTE and its word as they were together at one time, without the PTL.
 * Words and flags are written under the PTL: a word before its flag, a copied
 * side page before the link to it. RCU keeps an unlinked side page.
 * Returns false if the PTE is none, which may be so for a moment only.
 */
static bool em_peek_one(pte_t *ptep, u64 *word)
{
	unsigned long link;
	pte_t pte;

	*word = 0;
	do {
		pte = ptep_get_lockless(ptep);
		if (!flagged(pte))
			return !pte_none(pte);
		smp_rmb();
		link = extmeta_link(ptep);
		if (!link)
			continue;
		*word = em_word(link, ptep);
		smp_rmb();
	} while (!link || !pte_same(ptep_get_lockless(ptep), pte) ||
		 SIDE(extmeta_link(ptep)) != SIDE(link));
	return true;
}

/* The same for a huge PMD. Returns false if it is another. */
static bool em_peek_huge(pmd_t *pmd, u64 *word)
{
	unsigned long link;
	bool huge = true;
	pmd_t was;

	*word = 0;
	rcu_read_lock();
	do {
		was = pmdp_get_lockless(pmd);
		huge = pmd_trans_huge(was) || is_swap_pmd(was);
		if (!huge || !ext_huge_flagged(was))
			break;
		smp_rmb();
		link = READ_ONCE(*em_slot(pmd));
		if (!link)
			continue;
		*word = em_huge_word(link);
		smp_rmb();
	} while (!link || !pmd_same(pmdp_get_lockless(pmd), was) ||
		 READ_ONCE(*em_slot(pmd)) != link);
	rcu_read_unlock();
	return huge;
}

/*
 * As GUP-fast asks GUP, this asks em_get() if a table with words has a PTE that is
 * none: another CPU may have cleared it to change it.
 */
static int em_peek(pmd_t *pmd, unsigned long addr, unsigned long end,
		   struct mm_walk *walk)
{
	struct em_walk *w = walk->private;
	unsigned long at, done = 0;
	pte_t *ptep, *start;
	bool none = false;
	u64 word;

	if (em_peek_huge(pmd, &word)) {
		em_got_huge(w, addr, end, word);
		return 0;
	}
	start = ptep = pte_offset_map(pmd, addr);
	if (!ptep) {
		walk->action = ACTION_AGAIN;
		return 0;
	}
	for (at = addr; at != end; at += PAGE_SIZE, ptep++) {
		if (!em_peek_one(ptep, &word))
			none = true;
		if (word) {
			*em_word_of(w, at) = word;
			done++;
		}
	}
	none = none && extmeta_link(start);
	pte_unmap(start);
	if (none)
		return em_get(pmd, addr, end, walk);
	w->done += done;
	return 0;
}

static const struct mm_walk_ops em_set_ops = {
	.pmd_entry = em_set,
	.walk_lock = PGWALK_RDLOCK,
};

static const struct mm_walk_ops em_get_ops = {
	.pmd_entry = em_get,
	.walk_lock = PGWALK_RDLOCK,
};

static const struct mm_walk_ops em_peek_ops = {
	.pmd_entry = em_peek,
	.walk_lock = PGWALK_RDLOCK,
};

/* Mark the file mappings of a range. The lock for write is left as one for read. */
static void em_mark(struct mm_struct *mm, unsigned long addr, unsigned long end)
{
	VMA_ITERATOR(vmi, mm, addr);
	struct vm_area_struct *vma;

	mmap_write_lock(mm);
	for_each_vma_range(vmi, vma, end)
		if (!vma_is_anonymous(vma))
			vm_flags_set(vma, VM_EXTMETA);
	mmap_write_downgrade(mm);
}

static long em_rw(struct extmeta_io *io, const struct mm_walk_ops *ops)
{
	struct mm_struct *mm = current->mm;
	u64 __user *up = u64_to_user_ptr(io->words);
	unsigned long addr = io->start, end = addr + io->npages * PAGE_SIZE;
	bool set = ops == &em_set_ops;
	struct em_walk w = { };
	long err = 0;

	if (addr & ~PAGE_MASK || end < addr || end > TASK_SIZE)
		return -EINVAL;
	w.buf = (u64 *)__get_free_page(GFP_KERNEL);
	if (!w.buf)
		return -ENOMEM;
	while (addr < end && !err) {
		unsigned long next = min(pmd_addr_end(addr, end), end);
		unsigned long n = (next - addr) >> PAGE_SHIFT;

		w.base = addr;
		if (!set)
			memset(w.buf, 0, n * sizeof(u64));
		else if (copy_from_user(w.buf, up, n * sizeof(u64)))
			err = -EFAULT;
		if (!err) {
			unsigned long done = w.done;

			w.split = false;
			mmap_read_lock(mm);
			err = walk_page_range(mm, addr, next, ops, &w);
			if (err == EM_UNMARKED) {
				mmap_read_unlock(mm);
				em_mark(mm, addr, next);
				w.done = done;
				err = walk_page_range(mm, addr, next, ops, &w);
			}
			mmap_read_unlock(mm);
		}
		if (!err && !set && copy_to_user(up, w.buf, n * sizeof(u64)))
			err = -EFAULT;
		up += n;
		addr = next;
		cond_resched();
	}
	free_page((unsigned long)w.buf);
	io->done = w.done;
	return err;
}

static long em_stat(void __user *up)
{
	struct extmeta_stat st = {
		.form = IS_ENABLED(CONFIG_EXTMETA_ADJACENT) ? EXTMETA_IS_ADJACENT :
			IS_ENABLED(CONFIG_EXTMETA_ADAPTIVE) ? EXTMETA_IS_ADAPTIVE :
			EXTMETA_LINKED
	};

	rcu_barrier();
	st.live = atomic64_read(&em_live);
	st.bytes = st.live * PAGE_SIZE + atomic64_read(&em_list_bytes);
	st.live += atomic64_read(&em_lists);
	st.alloced = atomic64_read(&em_alloced);
	st.copied = atomic64_read(&em_copied);
	st.shared = atomic64_read(&em_shared);
	return copy_to_user(up, &st, sizeof(st)) ? -EFAULT : 0;
}

static long em_ioctl(struct file *f, unsigned int cmd, unsigned long arg)
{
	const struct mm_walk_ops *ops = &em_set_ops;
	void __user *up = (void __user *)arg;
	struct extmeta_io io;
	long err;

	switch (cmd) {
	case EXTMETA_IOC_MODE:
		return em_set_mode(arg);
	case EXTMETA_IOC_STAT:
		return em_stat(up);
	case EXTMETA_IOC_GET:
		ops = &em_get_ops;
		break;
	case EXTMETA_IOC_PEEK:
		ops = &em_peek_ops;
		break;
	case EXTMETA_IOC_SET:
		break;
	default:
		return -ENOTTY;
	}
	if (copy_from_user(&io, up, sizeof(io)))
		return -EFAULT;
	err = em_rw(&io, ops);
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

static int __init em_init(void)
{
	return misc_register(&em_dev);
}
device_initcall(em_init);
