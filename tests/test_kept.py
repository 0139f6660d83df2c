"""Batches that are kept: done once, whoever does them, and nothing half done counts."""

import itertools
import threading
import time

import pytest
import torch
from filelock import FileLock

from facelab.kept import keep, kept, name_of


def jobs(done, count=6):
    def job(i):
        done.append(i)
        return torch.full((2, 3), i)

    return {f"job{i}": (lambda i=i: job(i)) for i in range(count)}


def test_each_batch_is_done_once(tmp_path):
    done = []
    files = keep(tmp_path, jobs(done), bar := type("Bar", (), {"n": 0, "update": lambda self, n: None})())
    assert done == list(range(6)) and [kept(file)[0, 0].item() for file in files.values()] == done
    assert keep(tmp_path, jobs(done), bar) == files and len(done) == 6
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors"}


def test_a_stopped_run_goes_on_and_damage_is_noticed(tmp_path):
    done = []
    broken = jobs(done) | {"job3": lambda: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        keep(tmp_path, broken)
    assert done == [0, 1, 2]
    (tmp_path / "job1.safetensors").write_bytes((tmp_path / "job1.safetensors").read_bytes()[:-1])
    files = keep(tmp_path, jobs(done))
    assert done == [0, 1, 2, 1, 3, 4, 5] and kept(files["job1"]).tolist() == [[1] * 3] * 2


def test_a_batch_whose_numbers_have_changed_is_done_again(tmp_path):
    done = []
    file = keep(tmp_path, jobs(done))["job2"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert kept(keep(tmp_path, jobs(done))["job2"]).tolist() == [[2] * 3] * 2 and done[6:] == [2]


def test_what_another_process_has_in_hand_comes_last(tmp_path):
    done, held = [], threading.Event()

    def stops_before_it_is_done():
        with FileLock(tmp_path / "job0.lock"):
            held.set()
            time.sleep(0.3)

    other = threading.Thread(target=stops_before_it_is_done)
    other.start()
    held.wait()
    keep(tmp_path, jobs(done))
    other.join()
    assert done == [1, 2, 3, 4, 5, 0]


def test_several_share_the_work(tmp_path):
    done, found, all_at_work = [[], [], []], [], threading.Barrier(3)

    def together(one):
        def first_meets_the_others(job):
            if not one:
                all_at_work.wait(60)  # a worker that nobody lets in breaks it, and the keeping fails
            return job()

        return {name: (lambda job=job: first_meets_the_others(job)) for name, job in jobs(one, 12).items()}

    workers = [threading.Thread(target=lambda one=one: found.append(keep(tmp_path, together(one)))) for one in done]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(itertools.chain(*done)) == list(range(12)) and all(done), "each batch once, and everybody does some"
    assert len(found) == 3
    for files in found:
        assert [kept(file)[0, 0].item() for file in files.values()] == list(range(12))


def test_names_tell_words_and_tensors_apart():
    a, b = torch.arange(6.0), torch.arange(6)
    names = [name_of(1), name_of("1"), name_of(tensors=[a]), name_of(tensors=[b]), name_of(tensors=[a.reshape(2, 3)])]
    names += [name_of(1, tensors=[a]), name_of(tensors=[a + 1]), name_of(tensors=[torch.tensor(1)])]
    names += [name_of(tensors=[torch.zeros(2, dtype=kind)]) for kind in (torch.float32, torch.int32)]  # the same bytes
    last = torch.zeros(5000, 1).index_fill(0, torch.tensor([4999]), 1)
    names += [name_of(tensors=[many]) for many in (torch.zeros(5000, 1), last)]
    assert len(set(names)) == len(names) and name_of(1, tensors=[a]) == name_of(1, tensors=[a.clone()])
