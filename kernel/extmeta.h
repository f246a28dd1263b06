/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * extmeta - one 64-bit software word per PTE, kept beside the PTE table.
 *
 * A flag in the PTE says that its word is valid: bit 62 of a present PTE, which
 * protection keys would use, and bit 4 of a swap or migration entry. The word of
 * an unflagged PTE is stale, and nobody reads it.
 *
 * ptdesc->pt_index links a table to its words, under the table's PTL:
 *
 * linked:	the address of a side page, which tables may share after fork,
 *		and in the low 12 bits an upper bound of the number of flagged
 *		PTEs (while the static key extmeta_count is on).
 * adjacent:	PTE tables are order 1, and the word lies PAGE_SIZE above its
 *		PTE. The link is 1 if the table ever had a word.
 * adaptive:	as linked, but a table may have something smaller than a side
 *		page. The link has another layout: see mm/extmeta_containers.h.
 */
#ifndef _LINUX_EXTMETA_H
#define _LINUX_EXTMETA_H

#define EXTMETA_IOC_SET		_IOWR('e', 1, struct extmeta_io)
#define EXTMETA_IOC_GET		_IOWR('e', 2, struct extmeta_io)
#define EXTMETA_IOC_MODE	_IO('e', 3)
#define EXTMETA_IOC_STAT	_IOR('e', 4, struct extmeta_stat)
#define EXTMETA_IOC_PEEK	_IOWR('e', 5, struct extmeta_io)

#define EXTMETA_FORK_COPY	0	/* fork copies words */
#define EXTMETA_FORK_SHARE	1	/* fork links the same side page */
#define EXTMETA_COUNT		2	/* flag: free a side page without words */

#define EXTMETA_KEEP		(~0ull)	/* SET leaves this PTE as it is */

enum { EXTMETA_LINKED, EXTMETA_IS_ADJACENT, EXTMETA_MODULE, EXTMETA_IS_ADAPTIVE };

struct extmeta_io {
	unsigned long long start;	/* address, page aligned */
	unsigned long long npages;
	unsigned long long words;	/* user pointer to npages words; 0: none */
	unsigned long long done;	/* out: PTEs that were set or have a word */
};

struct extmeta_stat {
	unsigned long long form;
	unsigned long long live;	/* side pages now */
	unsigned long long alloced, copied, shared;
	unsigned long long bytes;	/* of side memory now */
};

#ifdef __KERNEL__
#include <linux/mm_types.h>
#include <linux/pgtable.h>
#include <linux/jump_label.h>
#include <linux/printk.h>

#ifdef CONFIG_EXTMETA

/* _PAGE_EXTMETA is in _PAGE_CHG_MASK: mprotect, uffd-wp and NUMA hints keep it. */
#define _PAGE_BIT_SWP_EXTMETA	_PAGE_BIT_PCD
#define _PAGE_SWP_EXTMETA	_PAGE_PCD

void extmeta_unlink(struct mm_struct *mm, struct ptdesc *pt);
void extmeta_slots_free(struct mm_struct *mm, struct ptdesc *pt);
void extmeta_fork_words(pte_t *dst, pte_t *src, unsigned int nr);
int extmeta_move_words(struct mm_struct *mm, pte_t *dst, pte_t *src,
		       unsigned int nr);
int extmeta_uffd_move(pte_t *dst, pte_t *src);

static inline struct ptdesc *extmeta_table(pte_t *ptep)
{
	return page_ptdesc(virt_to_page(ptep));
}

static inline unsigned long extmeta_link(pte_t *ptep)
{
	return READ_ONCE(extmeta_table(ptep)->pt_index);
}

static inline void ext_table_init(struct ptdesc *pt)
{
	pt->pt_index = 0;
}

static inline void ext_table_fini(struct mm_struct *mm, struct ptdesc *pt)
{
	if (unlikely(pt->pt_index))
		extmeta_unlink(mm, pt);
}

/* a PMD table goes: see mm/extmeta_huge.h */
static inline void ext_slots_fini(struct mm_struct *mm, struct ptdesc *pt)
{
	if (unlikely(pt->pt_index))
		extmeta_slots_free(mm, pt);
}

static inline bool pte_ext(pte_t pte)
{
	return pte_val(pte) & _PAGE_EXTMETA;
}

static inline bool pte_swp_ext(pte_t pte)
{
	return pte_val(pte) & _PAGE_SWP_EXTMETA;
}

static inline bool ext_flagged(pte_t pte)
{
	return pte_present(pte) ? pte_ext(pte) : pte_swp_ext(pte);
}

static inline pte_t ext_swp_clear(pte_t pte)
{
	return __pte(pte_val(pte) & ~_PAGE_SWP_EXTMETA);
}

/* @to with the flag of @from: present to present */
static inline pte_t ext_carry(pte_t to, pte_t from)
{
	return __pte(pte_val(to) | (pte_val(from) & _PAGE_EXTMETA));
}

/* present to swap */
static inline pte_t ext_to_swp(pte_t to, pte_t from)
{
	return pte_ext(from) ? __pte(pte_val(to) | _PAGE_SWP_EXTMETA) : to;
}

/* swap to swap */
static inline pte_t ext_swp_carry(pte_t to, pte_t from)
{
	return __pte(pte_val(to) | (pte_val(from) & _PAGE_SWP_EXTMETA));
}

/* swap to present */
static inline pte_t ext_from_swp(pte_t to, pte_t from)
{
	return pte_swp_ext(from) ? __pte(pte_val(to) | _PAGE_EXTMETA) : to;
}

/* each present or not */
static inline pte_t ext_carry_any(pte_t to, pte_t from)
{
	if (!ext_flagged(from))
		return to;
	return __pte(pte_val(to) | (pte_present(to) ? _PAGE_EXTMETA : _PAGE_SWP_EXTMETA));
}

/*
 * mremap: the words of @nr PTEs, before the PTEs are moved. -EAGAIN: a truncation
 * took the room that ext_move_prepare() had made.
 */
static inline int ext_move_words(struct mm_struct *mm, pte_t *dst, pte_t *src,
				 unsigned int nr)
{
	if (unlikely(extmeta_link(src)))
		return extmeta_move_words(mm, dst, src, nr);
	return 0;
}

/* UFFDIO_MOVE: -EAGAIN if @src has got a word since ext_move_prepare() */
static inline int ext_uffd_move(pte_t *dst, pte_t *src)
{
	return ext_flagged(ptep_get(src)) ? extmeta_uffd_move(dst, src) : 0;
}

/* fork: the words of @nr PTEs that were copied, once per table */
static inline void ext_fork_words(pte_t *dst, pte_t *src, unsigned int nr)
{
	if (!IS_ENABLED(CONFIG_EXTMETA_LOOP) && unlikely(extmeta_link(src)))
		extmeta_fork_words(dst, src, nr);
}

#ifdef CONFIG_EXTMETA_ADJACENT

static inline u64 *extmeta_word(pte_t *ptep)
{
	return (u64 *)((char *)ptep + PAGE_SIZE);
}

#define ext_fork_prepare(dst_mm, dst, src_mm, src)	0
#define ext_move_prepare(mm, dst, src)			0
#define ext_zap_count(ptep, nr)				((void)(nr), 0)
#define ext_zapped(mm, ptep, nr, had)			((void)(had))

#else /* linked, adaptive */

DECLARE_STATIC_KEY_FALSE(extmeta_count);

int extmeta_fork_prepare(struct mm_struct *dst_mm, pmd_t *dst,
			 struct mm_struct *src_mm, pmd_t *src);
int extmeta_move_prepare(struct mm_struct *mm, pmd_t *dst, pmd_t *src);
unsigned int extmeta_flags(pte_t *ptep, unsigned int nr);
void extmeta_gone(struct mm_struct *mm, pte_t *ptep, unsigned int nr);

/* linked only */
static inline u64 *extmeta_word(pte_t *ptep)
{
	unsigned long side = extmeta_table(ptep)->pt_index & PAGE_MASK;

	return (u64 *)(side + ((unsigned long)ptep & ~PAGE_MASK));
}

/* may sleep, so it comes before the PTLs are taken; mmap_lock is held */
static inline int ext_fork_prepare(struct mm_struct *dst_mm, pmd_t *dst,
				   struct mm_struct *src_mm, pmd_t *src)
{
	if (likely(!page_ptdesc(pmd_page(*src))->pt_index))
		return 0;
	return extmeta_fork_prepare(dst_mm, dst, src_mm, src);
}

static inline int ext_move_prepare(struct mm_struct *mm, pmd_t *dst, pmd_t *src)
{
	if (likely(!page_ptdesc(pmd_page(*src))->pt_index))
		return 0;
	return extmeta_move_prepare(mm, dst, src);
}

/* zap: flags of @nr PTEs before, and which of them are gone after */
static inline unsigned int ext_zap_count(pte_t *ptep, unsigned int nr)
{
	if (!static_branch_unlikely(&extmeta_count) || !extmeta_link(ptep))
		return 0;
	return extmeta_flags(ptep, nr);
}

static inline void ext_zapped(struct mm_struct *mm, pte_t *ptep,
			      unsigned int nr, unsigned int had)
{
	if (unlikely(had))
		extmeta_gone(mm, ptep, had - extmeta_flags(ptep, nr));
}

#endif /* form */

/* fork, the slow way: in the loop over PTEs */
static __always_inline void ext_loop_words(pte_t *dst, pte_t *src, bool flagged,
					   unsigned int nr)
{
	if (IS_ENABLED(CONFIG_EXTMETA_LOOP) && unlikely(flagged)) {
		u64 *to = extmeta_word(dst), *from = extmeta_word(src);

		while (nr--)
			*to++ = *from++;
	}
}

#ifdef CONFIG_EXTMETA_SITES
#include <asm/delay.h>
/* a macro of a function's name calls the function */
#define ext_site(cond)							\
	do {								\
		if (cond)						\
			pr_info_once("extmeta site %s:%d\n", __FILE__, __LINE__); \
	} while (0)
#define ext_table_init(pt)						\
	({ ext_site(true); ext_table_init(pt); })
#define ext_table_fini(mm, pt)						\
	({ ext_site((pt)->pt_index); ext_table_fini(mm, pt); })
#define ext_slots_fini(mm, pt)						\
	({ ext_site((pt)->pt_index); ext_slots_fini(mm, pt); })
/* slow, so that a writer of a word waits for the PTL of a collapse that scans */
#define ext_flagged(pte)						\
	({ bool __r = ext_flagged(pte); ext_site(__r); udelay(1); __r; })
#define ext_swp_clear(pte)						\
	({ pte_t __p = (pte); ext_site(pte_swp_ext(__p)); ext_swp_clear(__p); })
#define ext_carry(to, from)						\
	({ pte_t __f = (from); ext_site(pte_ext(__f)); ext_carry(to, __f); })
#define ext_to_swp(to, from)						\
	({ pte_t __f = (from); ext_site(pte_ext(__f)); ext_to_swp(to, __f); })
#define ext_swp_carry(to, from)						\
	({ pte_t __f = (from); ext_site(pte_swp_ext(__f)); ext_swp_carry(to, __f); })
#define ext_from_swp(to, from)						\
	({ pte_t __f = (from); ext_site(pte_swp_ext(__f)); ext_from_swp(to, __f); })
#define ext_carry_any(to, from)						\
	({ pte_t __f = (from); ext_site((ext_flagged)(__f)); ext_carry_any(to, __f); })
#define ext_move_words(mm, dst, src, nr)				\
	({ ext_site(extmeta_link(src)); ext_move_words(mm, dst, src, nr); })
#define ext_uffd_move(dst, src)						\
	({ ext_site(pte_val(ptep_get(src)) & (_PAGE_EXTMETA | _PAGE_SWP_EXTMETA)); \
	   ext_uffd_move(dst, src); })
#define ext_fork_words(dst, src, nr)					\
	({ ext_site(extmeta_link(src)); ext_fork_words(dst, src, nr); })
#ifndef CONFIG_EXTMETA_ADJACENT
#define ext_fork_prepare(dst_mm, dst, src_mm, src)			\
	({ ext_site(page_ptdesc(pmd_page(*(src)))->pt_index);		\
	   ext_fork_prepare(dst_mm, dst, src_mm, src); })
#define ext_move_prepare(mm, dst, src)					\
	({ ext_site(page_ptdesc(pmd_page(*(src)))->pt_index);		\
	   ext_move_prepare(mm, dst, src); })
#define ext_zap_count(ptep, nr)						\
	({ unsigned int __n = ext_zap_count(ptep, nr); ext_site(__n); __n; })
#define ext_zapped(mm, ptep, nr, had)					\
	({ ext_site(had); ext_zapped(mm, ptep, nr, had); })
#endif
#endif /* CONFIG_EXTMETA_SITES */

#else /* !CONFIG_EXTMETA: every hook is nothing */

#define ext_table_init(pt)			do { } while (0)
#define ext_table_fini(mm, pt)			do { } while (0)
#define ext_slots_fini(mm, pt)			do { } while (0)
#define ext_flagged(pte)			false
#define ext_swp_clear(pte)			(pte)
#define ext_carry(to, from)			(to)
#define ext_to_swp(to, from)			((void)(from), (to))
#define ext_swp_carry(to, from)			(to)
#define ext_from_swp(to, from)			(to)
#define ext_carry_any(to, from)			((void)(from), (to))
#define ext_move_words(mm, dst, src, nr)	0
#define ext_uffd_move(dst, src)			0
#define ext_fork_words(dst, src, nr)		do { } while (0)
#define ext_loop_words(dst, src, flagged, nr)	do { } while (0)
#define ext_fork_prepare(dst_mm, dst, src_mm, src)	0
#define ext_move_prepare(mm, dst, src)		0
#define ext_zap_count(ptep, nr)			((void)(nr), 0)
#define ext_zapped(mm, ptep, nr, had)		((void)(had))

#endif /* CONFIG_EXTMETA */
#endif /* __KERNEL__ */
#endif
