//! Rounds on teams: whatever the number of threads, what panics, how many teams there are at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use serpens_core::{Mat, MatMut};

use super::dense::uniform;
use crate::Team;
use crate::causal_conv1d::cpu::step;
use crate::shared::tasks::for_each_task;

/// More values than are few.
const MANY: usize = 1 << 20;

/// Runs rounds of tiny tasks and holds each to have been done once.
fn rounds(team: &mut Team, rounds: usize) {
    let counts: Vec<AtomicU64> = (0..97).map(|_| AtomicU64::new(0)).collect();
    let total = AtomicUsize::new(0);
    team.enter(|| {
        for round in 0..rounds {
            let tasks = 2 + round % 96;
            for_each_task(MANY, tasks, |task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
                total.fetch_add(task, Ordering::Relaxed);
            });
            // All of it, before the round has ended.
            let all = total.swap(0, Ordering::Relaxed);
            assert_eq!(
                all,
                tasks * (tasks - 1) / 2,
                "round {round} of {tasks} tasks"
            );
        }
    });
    for (task, count) in counts.iter().enumerate() {
        let expected = (0..rounds).filter(|round| task < 2 + round % 96).count();
        assert_eq!(
            count.load(Ordering::Relaxed),
            expected as u64,
            "task {task}"
        );
    }
}

#[test]
fn every_task_of_very_many_tiny_rounds_is_done_once_before_the_round_ends() {
    for threads in 1..=4 {
        rounds(&mut Team::new(threads), 100_000 / threads);
    }
}

#[test]
fn several_teams_work_at_once_on_fewer_processors() {
    thread::scope(|scope| {
        for threads in 1..=4 {
            scope.spawn(move || {
                let mut team = Team::new(threads);
                for _ in 0..5 {
                    rounds(&mut team, 500);
                    thread::sleep(std::time::Duration::from_millis(2)); // its members fall asleep
                }
            });
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
            scope.spawn(move || pool.unwrap().install(|| rounds(&mut Team::new(3), 2_000)));
        }
    });
}

#[test]
fn what_a_kernel_computes_on_a_team_has_the_bits_that_it_has_on_rayon() {
    let (slots, channels) = (33, 1111);
    let (x, state) = (
        uniform(1, slots * channels).0,
        uniform(2, slots * 3 * channels).0,
    );
    let (weight, bias) = (uniform(3, channels * 4).0, uniform(4, channels).0);
    let run = || {
        let (mut state, mut y) = (state.clone(), vec![f32::NAN; x.len()]);
        step(
            Mat::dense(&x, channels),
            Mat::dense(&weight, 4),
            Some(&bias),
            true,
            MatMut::dense(&mut state, 3 * channels),
            MatMut::dense(&mut y, channels),
        );
        [y, state]
    };
    let on_rayon = run();
    for threads in 1..=4 {
        assert_eq!(Team::new(threads).enter(run), on_rayon, "{threads} threads");
    }
}

#[test]
fn a_panic_in_a_task_reaches_who_entered_and_the_team_goes_on() {
    for threads in 1..=4 {
        let mut team = Team::new(threads);
        for panicking in [0, 40, 95] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.enter(|| for_each_task(MANY, 96, |task| assert_ne!(task, panicking)));
            }));
            let words = caught.unwrap_err();
            let words = words.downcast_ref::<String>().unwrap();
            assert!(
                words.contains("assertion `left != right` failed"),
                "{words}"
            );
            rounds(&mut team, 50);
        }
        // Outside of it the same thread works on rayon again.
        for_each_task(MANY, 5, |_| ());
    }
}

#[test]
fn a_task_may_have_tasks_and_a_team_may_be_entered_in_another() {
    let count = AtomicUsize::new(0);
    let work = || {
        for_each_task(MANY, 10, |_| {
            for_each_task(MANY, 10, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
    };
    Team::new(2).enter(|| {
        work();
        Team::new(3).enter(work);
        work();
    });
    assert_eq!(count.load(Ordering::Relaxed), 300);
}
