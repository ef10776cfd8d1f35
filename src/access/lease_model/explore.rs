//! Tries all steps of a model in all states.

use std::collections::{HashMap, VecDeque};

use super::{Model, State};

/// The result of a check.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) states: usize,
    /// The states in which the session has ended.
    pub(super) sign_outs: usize,
    /// The steps that lead to the first wrong state, and what is wrong.
    pub(super) wrong: Option<(Vec<&'static str>, &'static str)>,
}

/// Tries all steps in all states, and checks that from each state the replicas can finish.
pub(super) fn check(model: Model) -> Checked {
    let start = State::start(model);
    let mut numbers = HashMap::from([(start.clone(), 0)]);
    let mut came_from: Vec<(usize, &'static str)> = vec![(0, "start")];
    let mut leads_to: Vec<Vec<usize>> = Vec::new();
    let mut open = VecDeque::from([start]);
    let mut over = Vec::new();
    let mut sign_outs = 0;
    while let Some(state) = open.pop_front() {
        let number = leads_to.len();
        if let Some(wrong) = state.wrong {
            let wrong = Some((trace(&came_from, number), wrong));
            let states = numbers.len();
            return Checked {
                states,
                sign_outs,
                wrong,
            };
        }
        sign_outs += usize::from(state.stored.is_none());
        if state.is_over() {
            over.push(number);
        }
        let mut next_numbers = Vec::new();
        for (name, next) in model.steps(&state) {
            let fresh = numbers.len();
            let known = *numbers.entry(next.clone()).or_insert(fresh);
            if known == fresh {
                came_from.push((number, name));
                open.push_back(next);
            }
            next_numbers.push(known);
        }
        leads_to.push(next_numbers);
    }
    let stuck = first_stuck(&leads_to, over);
    Checked {
        states: leads_to.len(),
        sign_outs,
        wrong: stuck.map(|number| (trace(&came_from, number), "a waiter never ends")),
    }
}

/// The steps from the start to a state.
fn trace(came_from: &[(usize, &'static str)], mut number: usize) -> Vec<&'static str> {
    let mut steps = Vec::new();
    while number != 0 {
        let (before, name) = came_from[number];
        steps.push(name);
        number = before;
    }
    steps.reverse();
    steps
}

/// The first state from which no state in `over` can be reached.
fn first_stuck(leads_to: &[Vec<usize>], over: Vec<usize>) -> Option<usize> {
    let mut comes_from = vec![Vec::new(); leads_to.len()];
    for (number, next) in leads_to.iter().enumerate() {
        for next in next {
            comes_from[*next].push(number);
        }
    }
    let mut ends = vec![false; leads_to.len()];
    let mut open = over;
    while let Some(number) = open.pop() {
        if !std::mem::replace(&mut ends[number], true) {
            open.extend(&comes_from[number]);
        }
    }
    ends.iter().position(|ends| !ends)
}
