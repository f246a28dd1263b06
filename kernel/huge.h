/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * extmeta - words of huge PMDs of anonymous memory, for the files of mm.
 *
 * All pages of a huge PMD have one word. The flag is that of a PTE. The PMD's
 * slot has what the link of a PTE table with that word in each entry would
 * be, and a split moves it there, so that it allocates nothing.
 *
 * ptdesc->pt_index of the PMD table is the address of a page with a slot for
 * each PMD, under the PMD's lock. A slot is 0 if its PMD has no flag.
 */
#ifndef _MM_EXTMETA_HUGE_H
#define _MM_EXTMETA_HUGE_H

#include <linux/mm.h>

#ifdef CONFIG_EXTMETA

int extmeta_huge_prepare(struct mm_struct *mm, pmd_t *pmd);
void extmeta_huge_fork(struct mm_struct *mm, pmd_t *dst, pmd_t *src);
void extmeta_huge_gone(struct mm_struct *mm, pmd_t *pmd);
void extmeta_huge_move(pmd_t *dst, pmd_t *src);
void extmeta_huge_split(struct mm_struct *mm, pmd_t *pmd, struct ptdesc *pt);

static inline struct ptdesc *extmeta_slots(pmd_t *pmd)
{
	return page_ptdesc(virt_to_page(pmd));
}

static inline bool ext_huge_flagged(pmd_t pmd)
{
	unsigned long bit = pmd_present(pmd) ? _PAGE_EXTMETA : _PAGE_SWP_EXTMETA;

	return pmd_val(pmd) & bit;
}

/* the present PMD @to with the flag of @from */
static inline pmd_t ext_huge_pmd(pmd_t to, pmd_t from)
{
	return ext_huge_flagged(from) ? __pmd(pmd_val(to) | _PAGE_EXTMETA) : to;
}

/* the migration entry @to with it */
static inline pmd_t ext_huge_swp_pmd(pmd_t to, pmd_t from)
{
	return ext_huge_flagged(from) ? __pmd(pmd_val(to) | _PAGE_SWP_EXTMETA) : to;
}

/* a PTE of the split PMD @from */
static inline pte_t ext_huge_pte(pte_t to, pmd_t from)
{
	return ext_huge_flagged(from) ? __pte(pte_val(to) | _PAGE_EXTMETA) : to;
}

static inline pte_t ext_huge_swp_pte(pte_t to, pmd_t from)
{
	return ext_huge_flagged(from) ? __pte(pte_val(to) | _PAGE_SWP_EXTMETA) : to;
}

/* may sleep, so it comes before the locks are taken */
static inline int ext_huge_prepare(struct mm_struct *mm, pmd_t *dst, pmd_t *src)
{
	return unlikely(ext_huge_flagged(*src)) ? extmeta_huge_prepare(mm, dst) : 0;
}

/* UFFDIO_MOVE: has @src got a word since ext_huge_prepare()? */
static inline bool ext_huge_unready(pmd_t *dst, pmd_t *src)
{
	return ext_huge_flagged(*src) && !extmeta_slots(dst)->pt_index;
}

static inline void ext_huge_fork(struct mm_struct *mm, pmd_t *dst, pmd_t *src)
{
	if (unlikely(ext_huge_flagged(*src)))
		extmeta_huge_fork(mm, dst, src);
}

/* *pmd was @from, and is unmapped */
static inline void ext_huge_gone(struct mm_struct *mm, pmd_t *pmd, pmd_t from)
{
	if (unlikely(ext_huge_flagged(from)))
		extmeta_huge_gone(mm, pmd);
}

static inline void ext_huge_move(pmd_t *dst, pmd_t *src, pmd_t from)
{
	if (unlikely(ext_huge_flagged(from)))
		extmeta_huge_move(dst, src);
}

static inline void ext_huge_split(struct mm_struct *mm, pmd_t *pmd, pgtable_t table,
				  pmd_t from)
{
	if (unlikely(ext_huge_flagged(from)))
		extmeta_huge_split(mm, pmd, page_ptdesc(table));
}

#ifdef CONFIG_EXTMETA_SITES
#define ext_huge_flagged(pmd)						\
	({ bool __r = ext_huge_flagged(pmd); ext_site(__r); __r; })
#define ext_huge_pmd(to, from)						\
	({ pmd_t __f = (from); ext_site(ext_huge_flagged(__f)); ext_huge_pmd(to, __f); })
#define ext_huge_swp_pmd(to, from)					\
	({ pmd_t __f = (from); ext_site(ext_huge_flagged(__f)); ext_huge_swp_pmd(to, __f); })
#define ext_huge_pte(to, from)						\
	({ pmd_t __f = (from); ext_site(ext_huge_flagged(__f)); ext_huge_pte(to, __f); })
#define ext_huge_swp_pte(to, from)					\
	({ pmd_t __f = (from); ext_site(ext_huge_flagged(__f)); ext_huge_swp_pte(to, __f); })
#define ext_huge_prepare(mm, dst, src)					\
	({ ext_site(ext_huge_flagged(*(src))); ext_huge_prepare(mm, dst, src); })
#define ext_huge_unready(dst, src)					\
	({ ext_site(ext_huge_flagged(*(src))); ext_huge_unready(dst, src); })
#define ext_huge_fork(mm, dst, src)					\
	({ ext_site(ext_huge_flagged(*(src))); ext_huge_fork(mm, dst, src); })
#define ext_huge_gone(mm, pmd, from)					\
	({ ext_site(ext_huge_flagged(from)); ext_huge_gone(mm, pmd, from); })
#define ext_huge_move(dst, src, from)					\
	({ ext_site(ext_huge_flagged(from)); ext_huge_move(dst, src, from); })
#define ext_huge_split(mm, pmd, table, from)				\
	({ ext_site(ext_huge_flagged(from)); ext_huge_split(mm, pmd, table, from); })
#endif

#else /* !CONFIG_EXTMETA: every hook is nothing */

#define ext_huge_flagged(pmd)			false
#define ext_huge_pmd(to, from)			(to)
#define ext_huge_swp_pmd(to, from)		(to)
#define ext_huge_pte(to, from)			(to)
#define ext_huge_swp_pte(to, from)		(to)
#define ext_huge_prepare(mm, dst, src)		0
#define ext_huge_unready(dst, src)		false
#define ext_huge_fork(mm, dst, src)		do { } while (0)
#define ext_huge_gone(mm, pmd, from)		do { } while (0)
#define ext_huge_move(dst, src, from)		do { } while (0)
#define ext_huge_split(mm, pmd, table, from)	do { } while (0)

#endif
#endif
