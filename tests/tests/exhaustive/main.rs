//! Every order of events, up to a bound: two engines, a network that loses, duplicates and reorders, applications that
//! open, send, close and abort when they like. The engines are the real ones; a model checker walks the states.
//!
//! In each state: what the engine promises of its records holds, no application reads what was not sent to it on this
//! very connection, and were the network to work from now on, everything would come to its end.

mod device;
mod party;
mod world;

use std::hash::{Hash, Hasher};

use stateright::{Checker, Model, Property};
use syncline_engine::config::SynCookies;

use world::{Budget, Scenario, Step, World};

/// A state is how it was reached: engines cannot be copied, so the way is gone again. It is known by its digest.
#[derive(Clone, Debug)]
struct State {
    way: Vec<Step>,
    digest: u64,
    steps: Vec<Step>,
    fault: Option<String>,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl State {
    fn after(scenario: &Scenario, way: Vec<Step>) -> Self {
        let world = World::after(scenario, &way);
        let (digest, steps) = (world.digest(), world.steps());
        let fault = world.fault().or_else(|| {
            [false, true].into_iter().find_map(|lost| {
                let mut world = World::after(scenario, &way);
                world.wind_up(lost);
                world.fault()
            })
        });
        Self { way, digest, steps, fault }
    }
}

impl Model for Scenario {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::after(self, Vec::new())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        if state.fault.is_none() {
            actions.extend_from_slice(&state.steps);
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let way = state.way.iter().copied().chain([step]).collect();
        Some(State::after(self, way))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing is wrong", |_, state: &State| state.fault.is_none())]
    }
}

/// Walks every state, and fails with the steps and the packets that lead to one where something is wrong.
fn explore(name: &str, scenario: Scenario) {
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    if let Some(path) = checker.discovery("nothing is wrong") {
        let state = path.last_state();
        let mut world = World::new(&scenario, true);
        for &step in &state.way {
            world.take(step);
        }
        let lost = [false, true].into_iter().find(|&lost| {
            let mut world = World::after(&scenario, &state.way);
            world.wind_up(lost);
            world.fault().is_some()
        });
        if let Some(lost) = lost.filter(|_| world.fault().is_none()) {
            world.wind_up(lost);
        }
        panic!("{name}: {}\n{:?}\n{}", state.fault.as_deref().unwrap_or_default(), state.way, world.log());
    }
}

const OPENER: Scenario = Scenario {
    budget: Budget { opens: [1, 0], sends: [1, 1], closes: [1, 1], aborts: 0, duplicates: 0, losses: 0, waits: 2 },
    listens: true,
    cookies: SynCookies::Never,
};

#[test]
fn open_send_and_close_in_every_order() {
    explore("open, send, close", OPENER);
}

#[test]
fn show() {
    let mut world = World::new(&OPENER, true);
    world.take(Step::Act(0, party::Act::Open));
    world.take(Step::Deliver(0));
    world.wind_up(false);
    world.dump(); println!("{}\n{:?}", world.log(), world.fault());
}
