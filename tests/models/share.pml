/* After a fork both tables have the same container; who writes first, copies.
 *
 * A writer on either side, under its own table's lock: while others have the
 * container it fills a copy, links that and lets go of the shared one, whose last
 * user gives it back; alone, it writes in place. A reader on the parent's side.
 *
 * The danger: the parent's reader has found the shared container, the parent leaves
 * it, the child, alone now, writes in place: the reader sees the child's word. Its
 * table's count must tell, so the parent's count has to be in memory before the
 * container is let go of.
 *
 * Proved: neither side ever shows the other's writes, none of the own is lost, what
 * nobody has is given back once.
 *
 * Broken: IN_PLACE (written though shared), NO_RELEASE (let go of before the count
 * is in memory), NO_RECHECK, TORN_COUNT (a user less by load and store), NO_COUNT
 * (the link is changed without the count).
 */
#define LOCATIONS	7
#define PROCESSES	2	/* the writers: parent's 0, child's 1 */
#include "weak.pml"

#define SEQ	0	/* of side s: SEQ + s; each has one writer, so no CAS */
#define LINK	2	/* LINK + s: which container */
#define DATA	4	/* DATA + c; container 0 is shared, s + 1 is a side's copy */
#define WRITES	2

byte users = 2;		/* of container 0 */
bool given_back;
byte ended;

/* Parent's writes count 16 each, the child's 1 each. */
#define ONE(s)	((s) -> 1 : 16)

proctype writer(byte me)
{
	byte i, c, seq, have, word;

	for (i : 1 .. WRITES) {
		c = load(me, LINK + me);
		seq = load(me, SEQ + me);
		if
		:: c == 0 && users > 1 ->
#ifdef IN_PLACE
			word = load(me, DATA) + ONE(me);
			store(me, DATA, word)
#else
			word = load(me, DATA) + ONE(me);
			store(me, DATA + me + 1, word);
#ifndef NO_COUNT
			store(me, SEQ + me, seq + 1);
#endif
#ifndef NO_RELEASE
			wmb(me);
#endif
			store(me, LINK + me, me + 1);
#ifndef NO_RELEASE
			wmb(me);
#endif
#ifndef NO_COUNT
			store(me, SEQ + me, seq + 2);
#endif
#ifdef TORN_COUNT
			have = users;
			users = have - 1;
			have = have - 1;
#else
			atomic { users--; have = users }
#endif
			if
			:: have == 0 -> assert(!given_back); given_back = true
			:: else
			fi
#endif
		:: else ->
			store(me, SEQ + me, seq + 1);
			wmb(me);
			word = load(me, DATA + c) + ONE(me);
			store(me, DATA + c, word);
			wmb(me);
			store(me, SEQ + me, seq + 2)
		fi
	}
	wmb(me);
	assert(load(me, DATA + load(me, LINK + me)) == WRITES * ONE(me));
	atomic {
		ended++;
		assert(ended < 2 || given_back == (memory[LINK] && memory[LINK + 1]))
	}
}

proctype reader()
{
	byte seq, c, word, i;

	for (i : 1 .. 2) {
		seq = seen(SEQ);
		if
		:: seq & 1
		:: else ->
			c = seen(LINK);
			word = seen(DATA + c);
			if
#ifdef NO_RECHECK
			:: true ->
#else
			:: seen(SEQ) == seq ->
#endif
				assert(word % 16 == 0)
			:: else
			fi
		fi
	}
}

init
{
	atomic { run writer(0); run writer(1); run reader() }
}
