//! How commands become one commit, and what happens once it is made.

use std::sync::Arc;

use super::command::{Answer, Batch, Command, Effect, Opened, say};
use super::ending::EndReason;
use super::keeper::Keeper;
use super::store::StoreError;
use super::stored::Stored;
use super::{Ended, EndedVersion, Replaced, Session, SessionKey, record};

impl Keeper {
    /// Plans commands that wait, up to one that has to wait for the commit of this batch.
    pub(super) fn gather(&mut self, first: Command, batch: &mut Batch) -> Option<Command> {
        let mut next = Some(first);
        while let Some(command) = next {
            if batch.has_to_wait(&command) {
                return Some(command);
            }
            batch.commands = batch.commands.saturating_add(1);
            self.plan(command, batch);
            next = self.commands.try_recv().ok();
        }
        None
    }

    fn plan(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::Open {
                session,
                registration,
                replaces,
                answer,
            } => {
                let provider = record::provider(session.contents());
                if provider.and_then(|name| self.registrations.get(name)) != Some(&registration) {
                    return say(answer, Ok(Opened::NoProvider));
                }
                self.plan_open(session, replaces, answer, batch);
            }
            Command::Replace {
                old,
                tokens,
                identity,
                answer,
            } => {
                let current = match self.current(&old) {
                    Ok(Current::Same(current)) => current,
                    Ok(Current::Newer(newer)) => {
                        return say(answer, Ok(Replaced::Newer(newer)));
                    }
                    Ok(Current::None) => return say(answer, Ok(Replaced::Ended)),
                    Err(error) => return say(answer, Err(error)),
                };
                let old = [Arc::clone(old.stored()), Arc::clone(current.stored())];
                let [held, standing] = &old;
                standing.note_use_of(held);
                let new = Arc::new(current.next(tokens, identity.map(|identity| *identity)));
                batch.put(new.stored());
                batch.effects.push(Effect::Replaced { old, new, answer });
            }
            Command::End { key, why, answer } => {
                if !self.knows(&key) {
                    return say(answer, Ok(Ended::Nothing));
                }
                batch.remove(key);
                let end = (key, why);
                batch.effects.push(Effect::Ended { end, answer });
            }
            Command::EndVersion { old, why, answer } => match self.current(&old) {
                Ok(Current::Same(_)) => {
                    let end = (*old.key(), why);
                    batch.remove(*old.key());
                    batch.effects.push(Effect::EndedVersion { end, answer });
                }
                Ok(Current::Newer(newer)) => say(answer, Ok(EndedVersion::Newer(newer))),
                Ok(Current::None) => say(answer, Ok(EndedVersion::Ended)),
                Err(error) => say(answer, Err(error)),
            },
            Command::Fetch { key, answer } => say(answer, self.ready(&key)),
            // They are never gathered.
            Command::Maintain { .. } | Command::Reconfigure { .. } | Command::Close { .. } => {}
        }
    }

    fn plan_open(
        &mut self,
        session: Arc<Stored>,
        replaces: Vec<SessionKey>,
        answer: Answer<Opened>,
        batch: &mut Batch,
    ) {
        let mut before = replaces;
        before.retain(|key| self.knows(key));
        before.dedup();
        let mut surplus = Vec::new();
        if let Some(person) = session.person() {
            batch.people.insert(person);
            surplus = self.index.surplus(person, self.per_person, &before);
        }
        batch.put(&session);
        let before = before.into_iter().map(|key| (key, EndReason::Replaced));
        let surplus = surplus.into_iter().map(|key| (key, EndReason::PushedOut));
        let ended: Vec<_> = before.chain(surplus).collect();
        for (key, _) in &ended {
            batch.remove(*key);
        }
        batch.effects.push(Effect::Opened {
            session,
            ended,
            answer,
        });
    }

    /// Commits a batch, brings index and cache up to date in its order, and answers.
    pub(super) fn settle(&mut self, batch: Batch) {
        if let Err(error) = self.commit(&batch.changes) {
            for effect in batch.effects {
                effect.failed(&error);
            }
            return;
        }
        for effect in batch.effects {
            self.take_effect(effect);
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Opened {
                session,
                ended,
                answer,
            } => {
                for (key, why) in &ended {
                    self.forget(key, *why);
                }
                self.remember(&session);
                self.count();
                say(answer, Ok(Opened::Stored));
            }
            Effect::Replaced { old, new, answer } => {
                self.stand(new.stored());
                for old in &old {
                    new.stored().note_use_of(old);
                    old.supersede();
                }
                say(answer, Ok(Replaced::Stored(new)));
            }
            Effect::Ended { end, answer } => {
                self.forget(&end.0, end.1);
                say(answer, Ok(Ended::Session));
            }
            Effect::EndedVersion { end, answer } => {
                self.forget(&end.0, end.1);
                say(answer, Ok(EndedVersion::Ended));
            }
        }
    }

    /// What stands for the session of a value that somebody holds.
    fn current(&mut self, old: &Session) -> Result<Current, StoreError> {
        Ok(match self.ready(old.key())? {
            None => Current::None,
            Some(current) if current.version() == old.version() => Current::Same(current),
            Some(newer) => Current::Newer(newer),
        })
    }
}

/// What stands for a session.
enum Current {
    Same(Arc<Session>),
    Newer(Arc<Session>),
    None,
}
