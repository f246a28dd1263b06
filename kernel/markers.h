/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * extmeta - words of file mappings, for the files of mm.
 *
 * The word of a file's page stays when others unmap the page: reclaim, a hole,
 * truncation, a collapse. A PTE marker then has the flag. munmap, exit and
 * MADV_DONTNEED drop words. VM_EXTMETA says that a file mapping may have words:
 * fork copies its PTEs, and no collapse frees its tables.
 */
#ifndef _MM_EXTMETA_MARKERS_H
#define _MM_EXTMETA_MARKERS_H

#include <linux/mm.h>
#include <linux/swapops.h>

#ifdef CONFIG_EXTMETA

/* Linux 6.12 uses bits 0 to 40 and 63 of vm_flags. */
#define VM_EXTMETA	BIT(41)

/* The PTEs that had a flag before a zap. */
struct ext_kept {
	unsigned int nr;	/* 0: the zap drops words */
	DECLARE_BITMAP(flags, PTRS_PER_PTE);
};

void extmeta_leave_marker(struct mm_struct *mm, unsigned long addr, pte_t *ptep);
void extmeta_keep(struct ext_kept *kept, pte_t *ptep);
void extmeta_kept(struct ext_kept *kept, struct mm_struct *mm,
		  unsigned long addr, pte_t *ptep);

static inline bool ext_vma(struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_EXTMETA;
}

/* A marker with a word; it may be one of uffd-wp, too. */
static inline bool ext_marker(pte_t pte)
{
	return pte_swp_ext(pte) && is_pte_marker(pte) &&
	       !is_poisoned_swp_entry(pte_to_swp_entry(pte));
}

/* The marker @pte with or without write protection */
static inline pte_t ext_wp_marker(pte_t pte, bool wp)
{
	pte_t marker = make_pte_marker(wp ? PTE_MARKER_UFFD_WP : 0);

	return __pte(pte_val(marker) | _PAGE_SWP_EXTMETA);
}

/* rmap: *ptep was cleared, and was @from */
static inline void ext_unmapped(struct vm_area_struct *vma, unsigned long addr,
				pte_t *ptep, pte_t from)
{
	/* a device-exclusive entry is not present */
	if (unlikely(ext_vma(vma)) && ext_flagged(from))
		extmeta_leave_marker(vma->vm_mm, addr, ptep);
}

/* zap: @keeps if the file's pages go, but the mapping stays */
static inline void ext_keep(struct ext_kept *kept, struct vm_area_struct *vma,
			    pte_t *ptep, unsigned int nr, bool keeps)
{
	kept->nr = unlikely(ext_vma(vma)) && keeps ? nr : 0;
	if (kept->nr)
		extmeta_keep(kept, ptep);
}

static inline void ext_kept(struct ext_kept *kept, struct vm_area_struct *vma,
			    unsigned long addr, pte_t *ptep)
{
	if (unlikely(kept->nr))
		extmeta_kept(kept, vma->vm_mm, addr, ptep);
}

#ifdef CONFIG_EXTMETA_SITES
#define ext_vma(vma)							\
	({ bool __r = ext_vma(vma); ext_site(__r); __r; })
#define ext_marker(pte)							\
	({ bool __r = ext_marker(pte); ext_site(__r); __r; })
#define ext_wp_marker(pte, wp)						\
	({ ext_site(true); ext_wp_marker(pte, wp); })
#define ext_unmapped(vma, addr, ptep, from)				\
	({ ext_site((vma)->vm_flags & VM_EXTMETA && (ext_flagged)(from));	\
	   ext_unmapped(vma, addr, ptep, from); })
#define ext_keep(kept, vma, ptep, n, keeps)				\
	({ ext_keep(kept, vma, ptep, n, keeps); ext_site((kept)->nr); })
#define ext_kept(kept, vma, addr, ptep)					\
	({ ext_site((kept)->nr); ext_kept(kept, vma, addr, ptep); })
#endif

#else /* !CONFIG_EXTMETA: every hook is nothing */

struct ext_kept { };

#define ext_vma(vma)				false
#define ext_marker(pte)				false
#define ext_wp_marker(pte, wp)			(pte)
#define ext_unmapped(vma, addr, ptep, from)	do { } while (0)
#define ext_keep(kept, vma, ptep, nr, keeps)	((void)(kept), (void)(keeps))
#define ext_kept(kept, vma, addr, ptep)		((void)(addr))

#endif
#endif
