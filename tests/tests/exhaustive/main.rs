//! Every order of events, up to a bound: two engines, a network that loses, duplicates and reorders, applications that
//! open, send, close and abort when they like. The engines are the real ones; a model checker walks the states.
//!
//! In each state: what the engine promises of its records holds, no application reads what was not sent to it on this
//! very connection, and were the network to work from now on, everything would come to its end.

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
        Self { way, digest: world.digest(), steps: world.steps(), fault: world.fault() }
    }

    /// What is wrong here, or comes of it when the network works from here on, whether what is on its way arrives or not.
    /// Asked once for each state, however many ways lead there.
    fn verdict(&self, scenario: &Scenario) -> Option<String> {
        self.fault.clone().or_else(|| {
            [false, true].into_iter().find_map(|lost| {
                let mut world = World::after(scenario, &self.way);
                world.wind_up(lost);
                world.fault()
            })
        })
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
        vec![Property::always("nothing is wrong", |scenario: &Self, state: &State| state.verdict(scenario).is_none())]
    }
}

/// Walks every state, and fails with the steps and the packets that lead to one where something is wrong.
fn explore(name: &str, scenario: Scenario) {
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    let (states, ways) = (checker.unique_state_count(), checker.state_count());
    println!("{name}: {states} states, {ways} steps between them, {} deep", checker.max_depth());
    if let Some(path) = checker.discovery("nothing is wrong") {
        explain(name, &scenario, path.last_state());
    }
    assert!(checker.unique_state_count() > 100, "{name}: hardly anything happened");
}

/// Goes the way to a faulty state once more, and writes down what is seen on it.
fn explain(name: &str, scenario: &Scenario, state: &State) -> ! {
    let mut world = World::new(scenario, true);
    for &step in &state.way {
        world.take(step);
    }
    let ends_badly = |&lost: &bool| {
        let mut world = World::after(scenario, &state.way);
        world.wind_up(lost);
        world.fault().is_some()
    };
    if world.fault().is_none()
        && let Some(lost) = [false, true].into_iter().find(ends_badly)
    {
        world.wind_up(lost);
    }
    panic!("{name}: {}\n{:?}\n{}", state.verdict(scenario).unwrap_or_default(), state.way, world.log());
}

const NONE: Budget =
    Budget { opens: [0; 2], sends: [0; 2], closes: [0; 2], aborts: 0, duplicates: 0, losses: 0, waits: 0 };

/// Side a opens to side b, and both may close.
const OPENER: Budget = Budget { opens: [1, 0], closes: [1, 1], ..NONE };

const fn listening(budget: Budget) -> Scenario {
    Scenario { budget, listens: true, cookies: SynCookies::Never }
}

const fn facing(budget: Budget) -> Scenario {
    Scenario { budget, listens: false, cookies: SynCookies::Never }
}

const fn with_cookies(budget: Budget) -> Scenario {
    Scenario { budget, listens: true, cookies: SynCookies::Always }
}

#[test]
fn open_and_close_with_a_duplicate() {
    explore("open, close, a duplicate", listening(Budget { duplicates: 1, waits: 1, ..OPENER }));
}

#[test]
fn open_and_close_with_a_loss() {
    explore("open, close, a loss", listening(Budget { losses: 1, waits: 1, ..OPENER }));
}

#[test]
fn a_reset_at_any_time() {
    explore("open, close, abort", listening(Budget { aborts: 1, waits: 1, ..OPENER }));
}

#[test]
fn an_octet_at_any_time() {
    explore("open, send, close", listening(Budget { sends: [1, 0], waits: 1, ..OPENER }));
}

#[test]
fn both_open_at_once() {
    explore("both open, both close", facing(Budget { opens: [1, 1], ..OPENER }));
    explore("both open, one closes", facing(Budget { opens: [1, 1], closes: [1, 0], waits: 1, ..NONE }));
}

#[test]
fn cookies_in_place_of_records() {
    explore("cookies, a duplicate", with_cookies(Budget { duplicates: 1, ..OPENER }));
    explore("cookies", with_cookies(Budget { waits: 1, ..OPENER }));
}

#[test]
fn the_same_name_again() {
    explore("open, close, open again", listening(Budget { opens: [2, 0], closes: [2, 1], waits: 1, ..NONE }));
    explore("open, abort, open again", listening(Budget { opens: [2, 0], closes: [0, 2], aborts: 1, ..NONE }));
}

#[test]
#[ignore = "670,000 states take some ten minutes: run with --ignored"]
fn further() {
    for (name, scenario) in [
        ("open, close, abort, two waits", listening(Budget { aborts: 1, waits: 2, ..OPENER })),
        ("open, close, two duplicates", listening(Budget { duplicates: 2, waits: 1, ..OPENER })),
        ("both open, abort", facing(Budget { opens: [1, 1], aborts: 1, waits: 1, ..OPENER })),
        ("again, a duplicate", listening(Budget { opens: [2, 0], closes: [2, 2], duplicates: 1, ..NONE })),
        ("cookies, send, a duplicate", with_cookies(Budget { sends: [1, 0], duplicates: 1, waits: 1, ..OPENER })),
        ("open, send both ways, close", listening(Budget { sends: [1, 1], waits: 1, ..OPENER })),
    ] {
        explore(name, scenario);
    }
}
