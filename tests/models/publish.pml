/* One PTE and its word: published, updated in place, discarded; and read alone.
 *
 * Two writers take the table's lock (PTL), which is the low bit of its sequence
 * count. The word has two halves, as one that lies in a container or is wider than
 * a store. A reader looks at the entry; without the flag it needs nothing else.
 *
 * Proved: a pair that is read was there at one moment (its halves, its generation
 * and the entry's belong together), an entry without the flag has no word, no
 * update is lost.
 *
 * Broken: NO_WMB (written, then unlocked: in no order), FLAG_FIRST (the flag, then
 * the word, and nobody looks at the count), NO_RECHECK, NO_RMB (count read again too
 * early), NO_CAS.
 */
#define LOCATIONS	4
#define PROCESSES	2
#include "weak.pml"

#define SEQ	0
#define PTE	1	/* 0: no flag; else the flag and the generation of its word */
#define LEFT	2	/* of the word: generation * 16 + how often it was updated */
#define RIGHT	3

#define TRIES	2

byte generation;	/* of the last word published */
byte updates;		/* asked for since */
byte ended;

inline lock(me)
{
	done = false;
	do
	:: done -> break
	:: else ->
		seq = load(me, SEQ);
		if
		:: seq & 1		/* held: look again */
			-> (load(me, SEQ) != seq)
		:: else ->
#ifdef NO_CAS
			store(me, SEQ, seq + 1);
			done = true
#else
			cas(me, SEQ, seq, seq + 1, done)
#endif
		fi
	od
}

proctype writer(byte me; byte writes)
{
	byte seq, pte, word, i, now;
	bool done;

	for (i : 1 .. writes) {
		lock(me);
		pte = load(me, PTE);
		if
		:: pte == 0 ->		/* publish */
			atomic { generation++; updates = 0; now = generation }
			word = now * 16;
#ifdef FLAG_FIRST
			store(me, PTE, now);
			store(me, LEFT, word);
			store(me, RIGHT, word)
#else
			store(me, LEFT, word);
			store(me, RIGHT, word);
			wmb(me);
			store(me, PTE, now)
#endif
		:: pte != 0 ->		/* update in place */
			word = load(me, LEFT) + 1;
			updates++;
			store(me, LEFT, word);
			store(me, RIGHT, word)
		:: pte != 0 ->		/* discard; what was counted is gone with it */
			assert(updates == load(me, LEFT) % 16);
			store(me, PTE, 0);
			store(me, LEFT, 0);
			store(me, RIGHT, 0)
		fi;
#ifndef NO_WMB
		wmb(me);
#endif
		store(me, SEQ, seq + 2)
	}
	wmb(me);
	ended++;
	if
	:: ended == 2 && load(me, PTE) ->
		assert(load(me, LEFT) == generation * 16 + updates)
	:: else
	fi
}

proctype reader()
{
	byte seq, pte, left, right, again, i;

	for (i : 1 .. TRIES) {
		pte = seen(PTE);
		if
		:: pte == 0 -> break	/* the entry alone: no word */
		:: else
		fi;
		seq = seen(SEQ);
		if
		:: seq & 1 -> skip
		:: else ->
#ifdef NO_RMB
			again = seen(SEQ);
#endif
			pte = seen(PTE);
			left = seen(LEFT);
			right = seen(RIGHT);
#ifndef NO_RMB
			again = seen(SEQ);
#endif
#if defined(NO_RECHECK) || defined(FLAG_FIRST)
			again = seq;
#endif
			if
			:: again == seq && pte ->
				assert(left == right);
				assert(left / 16 == pte);
				break
			:: again == seq && !pte -> break
			:: else
			fi
		fi
	}
}

init
{
	atomic {
		run reader();
#ifdef TWO_READERS
		run reader(); run writer(0, 1); run writer(1, 1)
#else
		run writer(0, 2); run writer(1, 1)
#endif
	}
}
