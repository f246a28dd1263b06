/* The memory itself, by its two best known tests.
 *
 * MP: what is stored first is seen first, if a wmb is between the stores and the
 * loads are in order. SB: one of two processes that store and then load sees the
 * other's store, if an mb is between.
 *
 * Broken: MP_NO_WMB, MP_NO_RMB, SB_NO_MB.
 */
#define LOCATIONS	2
#define PROCESSES	2
#include "weak.pml"

#define X 0
#define Y 1

byte saw[2];
byte ended;

proctype mp_writer()
{
	store(0, X, 1);
#ifndef MP_NO_WMB
	wmb(0);
#endif
	store(0, Y, 1)
}

proctype mp_reader()
{
	byte x, y;
#ifdef MP_NO_RMB
	x = load(1, X);		/* taken early, before the load of y */
	y = load(1, Y);
#else
	y = load(1, Y);
	x = load(1, X);
#endif
	assert(!y || x)
}

proctype sb(byte me)
{
	byte i;
	store(me, me, 1);
#ifndef SB_NO_MB
	mb(me);
#endif
	saw[me] = load(me, 1 - me);
	atomic { ended++; assert(ended < 2 || saw[0] || saw[1]) }
}

init
{
	if
#ifndef ONLY_SB
	:: atomic { run mp_writer(); run mp_reader() }
#endif
#ifndef ONLY_MP
	:: atomic { run sb(0); run sb(1) }
#endif
	fi
}
