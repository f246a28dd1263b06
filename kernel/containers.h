/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The adaptive form: a table has the smallest container for its words.
 *
 *	UNIFORM	all flagged PTEs have one word, below 2^49: it lies in the link
 *	BOXED	the same for a wider word, which lies in a slab object
 *	LISTED	a slab object has places and words of a few PTEs, by place
 *	PAGE	a side page
 *
 * Only the flags of PTEs say who has a word. So a zap leaves the container
 * alone, and a list may have places of PTEs without a flag.
 *
 * The link: bits 0-2 are the kind, 3-51 the physical address of the object or
 * the word itself, 52-63 a bound of the number of flagged PTEs, as in linked.
 * A boxed word never changes; a list or a page changes while one table has it.
 */
enum { EMPTY, UNIFORM, BOXED, LISTED, PAGE };

#define KIND(link)	((link) & 7)
#define REST(link)	((link) & GENMASK_ULL(51, 3))
#define COUNTS(link)	((link) & GENMASK_ULL(63, 52))
#define UNIFORM_BITS	49

/*
 * A table with more words gets a side page. A list of 100 fills 1 KiB. That is
 * a choice by size; no measurement set it.
 */
#define LISTED_MOST	100

struct em_list {
	struct rcu_head rcu;
	refcount_t users;
	u16 seq;		/* odd while places move; em_peek() looks at it */
	u8 nr, room;
	u64 words[];		/* and after `room` words their places, u16 each */
};

/* What a table needs. */
struct em_shape {
	unsigned int kind;
	size_t bytes;		/* of its object */
	u64 word;		/* if there is one */
};

static void *object(unsigned long link)
{
	return __va(REST(link));
}

static u16 *places(struct em_list *list)
{
	return (u16 *)(list->words + list->room);
}

static unsigned int place_of(pte_t *ptep)
{
	return offset_in_page(ptep) / sizeof(*ptep);
}

static size_t list_bytes(unsigned int room)
{
	size_t words = max(room * (sizeof(u64) + sizeof(u16)), sizeof(u64));

	return kmalloc_size_roundup(sizeof(struct em_list) + words);
}

static size_t link_bytes(unsigned long link)
{
	switch (KIND(link)) {
	case BOXED:
	case LISTED:
		return list_bytes(((struct em_list *)object(link))->room);
	case PAGE:
		return PAGE_SIZE;
	}
	return 0;
}

static void *object_alloc(size_t bytes)
{
	struct em_list *list;

	if (bytes == PAGE_SIZE)
		return side_alloc();
	list = kmalloc(bytes, GFP_KERNEL_ACCOUNT);
	if (!list)
		return NULL;
	refcount_set(&list->users, 1);
	list->seq = 0;
	list->nr = 0;
	list->room = (bytes - sizeof(*list)) / (sizeof(u64) + sizeof(u16));
	atomic64_inc(&em_lists);
	atomic64_add(bytes, &em_list_bytes);
	return list;
}

static void object_put(void *p, size_t bytes)
{
	struct em_list *list = p;

	if (bytes == PAGE_SIZE) {
		side_put(p);
	} else if (bytes && refcount_dec_and_test(&list->users)) {
		atomic64_dec(&em_lists);
		atomic64_sub(bytes, &em_list_bytes);
		kfree_rcu(list, rcu);
	}
}

static void link_get(unsigned long link)
{
	if (KIND(link) == PAGE)
		get_page(virt_to_page(object(link)));
	else if (KIND(link) > UNIFORM)
		refcount_inc(&((struct em_list *)object(link))->users);
}

/* May another table have this list or page? */
static bool object_is_shared(unsigned long link)
{
	int n;

	if (KIND(link) == PAGE)
		n = page_ref_count(virt_to_page(object(link)));
	else
		n = refcount_read(&((struct em_list *)object(link))->users);
	/* pairs with the barrier of who gave its reference back */
	smp_rmb();
	return n > 1;
}

/* The index of a place, or where it would be inserted. */
static unsigned int list_find(struct em_list *list, unsigned int at)
{
	unsigned int low = 0, high = READ_ONCE(list->nr);
	u16 *place = places(list);

	if (high && READ_ONCE(place[high - 1]) < at)
		return high;
	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (READ_ONCE(place[middle]) < at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool list_has_at(struct em_list *list, unsigned int i, unsigned int at)
{
	return i < READ_ONCE(list->nr) && READ_ONCE(places(list)[i]) == at;
}

static bool list_has(struct em_list *list, unsigned int at)
{
	return list_has_at(list, list_find(list, at), at);
}

static u64 list_word(struct em_list *list, unsigned int at)
{
	unsigned int i;
	u64 word;
	u16 seq;

	do {
		seq = smp_load_acquire(&list->seq);
		i = list_find(list, at);
		word = list_has_at(list, i, at) ? READ_ONCE(list->words[i]) : 0;
		smp_rmb();
	} while (seq & 1 || READ_ONCE(list->seq) != seq);
	return word;
}

static void list_store(struct em_list *list, unsigned int at, u64 word)
{
	unsigned int i = list_find(list, at), after = list->nr - i;
	u16 *place = places(list);

	if (list_has_at(list, i, at)) {
		WRITE_ONCE(list->words[i], word);
		return;
	}
	if (WARN_ON_ONCE(list->nr >= list->room))
		return;
	WRITE_ONCE(list->seq, list->seq + 1);
	smp_wmb();
	if (after) {
		memmove(place + i + 1, place + i, after * sizeof(*place));
		memmove(list->words + i + 1, list->words + i, after * sizeof(word));
	}
	place[i] = at;
	list->words[i] = word;
	list->nr++;
	smp_store_release(&list->seq, list->seq + 1);
}

static u64 list_or_boxed_word(unsigned long link, pte_t *ptep)
{
	struct em_list *list = object(link);

	if (KIND(link) == LISTED)
		return list_word(list, place_of(ptep));
	return KIND(link) == BOXED ? list->words[0] : 0;
}

static __always_inline u64 em_word(unsigned long link, pte_t *ptep)
{
	if (KIND(link) == PAGE)
		return READ_ONCE(((u64 *)object(link))[place_of(ptep)]);
	if (KIND(link) == UNIFORM)
		return REST(link) >> 3;
	return list_or_boxed_word(link, ptep);
}

/* The table has room for the word: see em_ready(). */
static __always_inline void em_store(unsigned long link, pte_t *ptep, u64 word)
{
	if (KIND(link) == PAGE)
		WRITE_ONCE(((u64 *)object(link))[place_of(ptep)], word);
	else if (KIND(link) == LISTED)
		list_store(object(link), place_of(ptep), word);
}

static bool is_word(u64 word)
{
	return word && word != EXTMETA_KEEP;
}

/* Is a word for this place among those that are to be written? */
static bool em_wants(const struct em_want *want, unsigned int at)
{
	return at - want->first < want->nr && is_word(want->words[at - want->first]);
}

/* Count the words that are to be written, and see if they are equal. */
static void em_survey(struct em_want *want)
{
	unsigned int n = 0;
	bool same = true;
	u64 word = 0;

	for (unsigned int i = 0; i < want->nr && (same || n <= LISTED_MOST); i++) {
		if (!is_word(want->words[i]))
			continue;
		if (!n++)
			word = want->words[i];
		else if (want->words[i] != word)
			same = false;
	}
	want->n = n;
	want->same = same;
	want->word = word;
}

/* Can the words be written without another container? The PTL is held. */
static bool em_ready(pte_t *ptep, const struct em_want *want)
{
	unsigned long link = extmeta_link(ptep);
	struct em_list *list = object(link);
	unsigned int n = want->n;

	if (!n)
		return true;
	switch (KIND(link)) {
	case UNIFORM:
	case BOXED:
		return want->same && want->word == em_word(link, ptep);
	case LISTED:
		if (n > list->room || object_is_shared(link))
			return false;
		if (list->nr + n <= list->room)
			return true;
		for (unsigned int i = 0; i < want->nr; i++)
			if (is_word(want->words[i]))
				n -= list_has(list, want->first + i);
		return list->nr + n <= list->room;
	case PAGE:
		return !object_is_shared(link);
	}
	return false;
}

/* Is it worth a look if the table could have a smaller container? */
static bool em_shrinks(unsigned long link, const struct em_want *want)
{
	bool whole = want->nr == PTRS_PER_PTE;

	if (KIND(link) == LISTED)
		return whole && want->same;
	if (KIND(link) != PAGE)
		return false;
	return (whole && (want->same || want->n <= LISTED_MOST)) ||
	       (static_branch_unlikely(&extmeta_count) &&
		COUNT(link) + want->n <= LISTED_MOST / 2);
}

/* The smallest container for the words of flagged PTEs and those to be written. */
static struct em_shape em_choose(pte_t *table, const struct em_want *want)
{
	unsigned long link = extmeta_link(table);
	unsigned int n = want->n;
	bool same = want->same;
	u64 word = want->word;

	for (unsigned int at = 0; link && at < PTRS_PER_PTE; at++) {
		if (!same && n > LISTED_MOST)
			break;
		if (!flagged(ptep_get(table + at)) || em_wants(want, at))
			continue;
		if (!n++)
			word = em_word(link, table + at);
		else
			same = same && em_word(link, table + at) == word;
	}
	if (same && !(word >> UNIFORM_BITS))
		return (struct em_shape){ UNIFORM, 0, word };
	if (same)
		return (struct em_shape){ BOXED, list_bytes(0), word };
	if (n <= LISTED_MOST)
		return (struct em_shape){ LISTED, list_bytes(n) };
	return (struct em_shape){ PAGE, PAGE_SIZE };
}

/* The words of flagged PTEs, and those to be written, which get their flag later. */
static void list_fill(struct em_list *list, pte_t *table, const struct em_want *want)
{
	unsigned long link = extmeta_link(table);
	u16 *place = places(list);

	if (!link)
		return;		/* what is to be written is appended then */
	for (unsigned int at = 0; at < PTRS_PER_PTE; at++) {
		bool has = flagged(ptep_get(table + at));

		if (!has && !em_wants(want, at))
			continue;
		place[list->nr] = at;
		list->words[list->nr++] = has ? em_word(link, table + at) :
						want->words[at - want->first];
	}
}

static void page_fill(u64 *page, unsigned long link)
{
	struct em_list *list = object(link);

	switch (KIND(link)) {
	case UNIFORM:
	case BOXED:
		memset64(page, em_word(link, NULL), PTRS_PER_PTE);
		break;
	case LISTED:
		for (unsigned int i = 0; i < list->nr; i++)
			page[places(list)[i]] = list->words[i];
		break;
	case PAGE:
		copy_page(page, list);
		atomic64_inc(&em_copied);
	}
}

/* Put the words of flagged PTEs into @p, and link the table to it. */
static void em_convert(struct mm_struct *mm, pte_t *table, const struct em_want *want,
		       const struct em_shape *shape, void *p)
{
	struct ptdesc *pt = extmeta_table(table);
	unsigned long link = pt->pt_index;
	unsigned long new = p ? __pa(p) : shape->word << 3;

	if (shape->kind == BOXED)
		((struct em_list *)p)->words[0] = shape->word;
	else if (shape->kind == LISTED)
		list_fill(p, table, want);
	else if (shape->kind == PAGE)
		page_fill(p, link);
	account(mm, shape->bytes - link_bytes(link));
	/* em_peek() sees the words before the link */
	smp_store_release(&pt->pt_index, new | shape->kind | COUNTS(link));
	object_put(object(link), link_bytes(link));
}

/* Give a table a container that can take the words. -EAGAIN: the table is gone. */
static int em_reserve(struct mm_struct *mm, pmd_t *pmd, const struct em_want *want)
{
	struct em_shape shape = { };
	size_t bytes = 0;
	void *p = NULL;
	spinlock_t *ptl;
	pte_t *table;
	bool ready;

	for (;;) {
		table = pte_offset_map_lock(mm, pmd, 0, &ptl);
		if (!table) {
			object_put(p, bytes);
			return -EAGAIN;
		}
		ready = em_ready(table, want);
		if (!ready || em_shrinks(extmeta_link(table), want)) {
			shape = em_choose(table, want);
			ready = ready && shape.kind >= KIND(extmeta_link(table));
		}
		if (ready || shape.bytes == bytes)
			break;
		pte_unmap_unlock(table, ptl);
		object_put(p, bytes);
		bytes = shape.bytes;
		p = bytes ? object_alloc(bytes) : NULL;
		if (bytes && !p)
			return -ENOMEM;
	}
	if (!ready)
		em_convert(mm, table, want, &shape, p);
	pte_unmap_unlock(table, ptl);
	if (ready)
		object_put(p, bytes);
	return 0;
}

static int em_own(struct mm_struct *mm, pmd_t *pmd, struct em_want *want)
{
	em_survey(want);
	return em_reserve(mm, pmd, want);
}

/* A bound of what the table of @src has: who moves some of it needs no more. */
int extmeta_move_prepare(struct mm_struct *mm, pmd_t *dst, pmd_t *src)
{
	struct em_want want = { .n = PTRS_PER_PTE };
	unsigned long link;
	spinlock_t *ptl;
	pte_t *table;

	table = pte_offset_map_lock(mm, src, 0, &ptl);
	if (!table)
		return 0;
	link = extmeta_link(table);
	if (KIND(link) == LISTED) {
		struct em_list *list = object(link);

		want.n = 0;
		for (unsigned int i = 0; i < list->nr; i++)
			want.n += flagged(ptep_get(table + places(list)[i]));
	} else if (static_branch_unlikely(&extmeta_count)) {
		want.n = COUNT(link);
	}
	want.same = KIND(link) < LISTED;
	if (want.same)
		want.word = em_word(link, table);
	pte_unmap_unlock(table, ptl);
	if (!link || !want.n)
		return 0;
	/* an -EAGAIN is found by who takes the PTL next */
	return em_reserve(mm, dst, &want) == -ENOMEM ? -ENOMEM : 0;
}

static void list_words_move(struct em_list *list, pte_t *dst, pte_t *src,
			    unsigned int nr, unsigned long to)
{
	for (unsigned int i = 0; i < list->nr; i++) {
		unsigned int at = places(list)[i] - place_of(src);

		if (at < nr && flagged(ptep_get(src + at)))
			em_store(to, dst + at, list->words[i]);
	}
}

int extmeta_move_words(struct mm_struct *mm, pte_t *dst, pte_t *src,
		       unsigned int nr)
{
	unsigned long from = extmeta_link(src), to = extmeta_link(dst);
	unsigned int n = 0;

	if (!to && extmeta_flags(src, nr))
		return -EAGAIN;
	if (static_branch_unlikely(&extmeta_count))
		n = extmeta_flags(src, nr);
	if (KIND(from) == PAGE && KIND(to) == PAGE)
		memcpy((u64 *)object(to) + place_of(dst),
		       (u64 *)object(from) + place_of(src), nr * sizeof(u64));
	else if (KIND(from) == LISTED && SIDE(from) != SIDE(to))
		list_words_move(object(from), dst, src, nr, to);
	else if (KIND(to) >= LISTED)
		for (unsigned int i = 0; i < nr; i++)
			if (flagged(ptep_get(src + i)))
				em_store(to, dst + i, em_word(from, src + i));
	if (n && extmeta_table(dst) != extmeta_table(src)) {
		em_counted(mm, dst, n);
		em_counted(mm, src, -n);
	}
	return 0;
}

int extmeta_uffd_move(pte_t *dst, pte_t *src)
{
	struct em_want want = { .n = 1, .same = true };

	want.word = em_word(extmeta_link(src), src);
	if (!em_ready(dst, &want))
		return -EAGAIN;
	em_store(extmeta_link(dst), dst, want.word);
	/* the move may still fail, so the source's count stays as a bound */
	em_counted(NULL, dst, 1);
	return 0;
}

static void link_put(unsigned long link)
{
	object_put(object(link), link_bytes(link));
}

static unsigned long em_huge_link(u64 word)
{
	struct em_list *box;

	if (!(word >> UNIFORM_BITS))
		return word << 3 | UNIFORM | PTRS_PER_PTE * ONE;
	box = object_alloc(list_bytes(0));
	if (!box)
		return 0;
	box->words[0] = word;
	return __pa(box) | BOXED | PTRS_PER_PTE * ONE;
}

/*
 * The words of the whole table, which may have several VMAs. Nobody writes one
 * before fork ends, so nothing is left to extmeta_fork_words().
 */
int extmeta_fork_prepare(struct mm_struct *dst_mm, pmd_t *dst,
			 struct mm_struct *src_mm, pmd_t *src)
{
	size_t needed, bytes = 0;
	struct em_list *list, *p = NULL;
	unsigned long link;
	struct ptdesc *pt;
	spinlock_t *ptl;
	pte_t *table;

	if (pte_alloc(dst_mm, dst))
		return -ENOMEM;
	pt = page_ptdesc(pmd_page(*dst));
	if (pt->pt_index)
		return 0;
	for (;;) {
		table = pte_offset_map_lock(src_mm, src, 0, &ptl);
		link = table ? extmeta_link(table) : 0;
		needed = KIND(link) < LISTED || em_mode & EXTMETA_FORK_SHARE ?
			 0 : link_bytes(link);
		if (!table || needed == bytes)
			break;
		pte_unmap_unlock(table, ptl);
		object_put(p, bytes);
		bytes = needed;
		p = bytes ? object_alloc(bytes) : NULL;
		if (bytes && !p)
			return -ENOMEM;
	}
	list = object(link);
	if (!table) {
		object_put(p, bytes);
		return 0;
	}
	if (KIND(link) == PAGE && p) {
		copy_page(p, list);
	} else if (p) {
		p->nr = list->nr;
		memcpy(p->words, list->words, list->nr * sizeof(u64));
		memcpy(places(p), places(list), list->nr * sizeof(u16));
	} else if (link) {
		link_get(link);
		atomic64_inc(&em_shared);
	}
	account(dst_mm, link_bytes(link));
	/* not all flagged PTEs may be copied: the count is a bound */
	WRITE_ONCE(pt->pt_index, p ? __pa(p) | KIND(link) | COUNTS(link) : link);
	pte_unmap_unlock(table, ptl);
	return 0;
}

void extmeta_fork_words(pte_t *dst, pte_t *src, unsigned int nr)
{
}
