//! Every model of `syncline_loom::model`, each a test.

macro_rules! models {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            syncline_loom::model::$name();
        })+
    };
}

models!(counters, parcels, parcels_run_out, ring, ring_end_is_missed, start_of_a_run, end_of_a_run, snapshots, stop);
