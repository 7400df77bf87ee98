from tests import hostile


def test_every_hostile_folder_configuration_and_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count, wrong = hostile.run(tmp_path)
    assert not wrong
    assert count >= 90


def test_the_payload_would_make_its_mark(tmp_path):
    import pickle

    pickle.loads(pickle.dumps(hostile.Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()
