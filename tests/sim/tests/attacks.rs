//! Every attack keeps its bounds, over IPv4 and IPv6, and once it is under way the server
//! allocates nothing but a page now and then. `syncline sim --attack NAME --seed N` plays one and prints what came of it.

use allocation_counter::measure;
use syncline_sim::attack::{ATTACKS, find, play};

/// Seeds, one of each family.
const SEEDS: [u64; 2] = [1, 2];

/// Pages that a table may still take when the attack is half over.
const PAGES: u64 = 4;

fn keeps_its_bounds(name: &str) {
    let attack = find(name).expect("an attack of that name");
    for seed in SEEDS {
        let mut allocations = 0;
        let outcome = play(attack, seed, &mut |second_half, pass| {
            let counted = measure(pass).count_total;
            allocations += if second_half { counted } else { 0 };
        });
        assert!(outcome.broken.is_empty(), "{outcome}");
        assert!(allocations <= PAGES, "{allocations} allocations of the server in the second half: {outcome}");
    }
}

#[test]
fn a_seed_gives_the_same_attack_again() {
    let attack = find("blind-rst").expect("an attack of that name");
    let once = play(attack, 7, &mut |_, pass| pass());
    assert_eq!(once, play(attack, 7, &mut |_, pass| pass()));
}

macro_rules! attacks {
    ($($test:ident $name:literal,)+) => {
        $(#[test]
        fn $test() {
            keeps_its_bounds($name);
        })+

        #[test]
        fn no_attack_is_left_out() {
            let mut played = vec![$($name),+];
            let mut known: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
            played.sort_unstable();
            known.sort_unstable();
            assert_eq!(played, known);
        }
    };
}

attacks! {
    syn_flood "syn-flood",
    syn_prefix "syn-prefix",
    syn_on_link "syn-on-link",
    ack_flood "ack-flood",
    rst_flood "rst-flood",
    junk_flood "junk-flood",
    blind_rst "blind-rst",
    blind_syn "blind-syn",
    blind_data "blind-data",
    icmp "icmp",
    neighbor_flood "neighbor-flood",
    zero_window "zero-window",
    tiny_window "tiny-window",
    never_reading "never-reading",
    optimistic_ack "optimistic-ack",
    ack_division "ack-division",
    duplicate_ack "duplicate-ack",
    sack_bomb "sack-bomb",
    reassembly_bomb "reassembly-bomb",
    small_mss "small-mss",
    table_full "table-full",
}
