use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tickstorm_service::fd_limit::{self, FdLimit};

#[test]
fn the_soft_open_file_limit_is_raised_to_the_hard_one() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard / 2, hard).unwrap();
    assert_eq!(
        fd_limit::raise().unwrap(),
        FdLimit {
            before: hard / 2,
            after: hard
        }
    );
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    assert_eq!(
        fd_limit::raise().unwrap(),
        FdLimit {
            before: hard,
            after: hard
        }
    );
    assert_eq!(fd_limit::hard().unwrap(), hard);
}
