//! A failover of the store to a server that lacks the lease and the last write.
//!
//! The replicas that have the lease and have made the write bring both back. The store gives no lease meanwhile. If a
//! replica is paused for longer than this time, the tokens can be lost, and no program could prevent this.

use super::{Model, Phase, State, Step, Stored, Without};

impl Model {
    pub(super) fn failover_steps(self, state: &State, steps: &mut Vec<Step>) {
        if state.failovers > 0 && state.stored.is_some() {
            steps.push((
                "fault: the store fails over and loses changes",
                state.after(|next| self.fail_over(next)),
            ));
        }
        if let Some((holder, left)) = state.lost_lease
            && self.without != Without::LeaseAgain
        {
            let again = state.after(|next| {
                next.lost_lease = None;
                next.lease.get_or_insert((holder, left));
            });
            steps.push(("the holder takes its lease again", again));
        }
        if let Some((writer, lost)) = state.lost_write
            && self.without != Without::TokensAgain
        {
            let again = state.after(|next| {
                next.lost_write = None;
                if let Some(stored) = next.stored
                    && stored.version < lost.version
                {
                    next.stored = Some(lost);
                    next.written_by = Some(writer);
                }
            });
            steps.push(("a replica stores its tokens again", again));
        }
        if state.brings_back {
            steps.push((
                "the time to bring back changes is over",
                state.after(|next| {
                    next.brings_back = false;
                    next.lost |= next.lost_lease.is_some() && self.without != Without::LeaseAgain;
                    next.lost |= next.lost_write.is_some() && self.without != Without::TokensAgain;
                }),
            ));
        }
    }

    fn fail_over(self, state: &mut State) {
        state.failovers -= 1;
        for replica in &mut state.replicas {
            replica.has_reconnected = true;
        }
        state.brings_back = self.without != Without::TimeToRepeat;
        // A write on its way to the old server does not reach the new server.
        state.late_write = None;
        let has_lease = |(holder, _left): &(usize, u8)| state.replicas[*holder].has_lease;
        state.lost_lease = state.lease.filter(has_lease);
        // Nobody takes the lease of a killed replica again, whose request may still be on its way.
        let is_dead = |(holder, _left): (usize, u8)| state.replicas[holder].phase == Phase::Dead;
        state.lost |= state.lease.is_some_and(is_dead);
        state.lease = None;
        if let Some(lost) = state.stored
            && lost.version > 0
        {
            state.stored = Some(Stored {
                version: 0,
                generation: 0,
            });
            match state.written_by.take() {
                Some(writer) if state.replicas[writer].phase != Phase::Dead => {
                    state.lost_write = Some((writer, lost));
                }
                Some(_) | None => state.lost = true,
            }
        }
    }
}

impl State {
    /// A killed replica brings nothing back.
    pub(super) fn release_by_death(&mut self, place: usize) {
        self.replicas[place].has_lease = false;
        if self
            .lost_lease
            .is_some_and(|(holder, _left)| holder == place)
        {
            // Its request may still be on its way.
            self.lost_lease = None;
            self.lost = true;
        }
        if self
            .lost_write
            .is_some_and(|(writer, _lost)| writer == place)
        {
            self.lost_write = None;
            self.lost = true;
        }
    }
}
