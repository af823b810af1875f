"""A segmentation whose pixels without a label count nowhere: dense, search, fine-tuning."""

import pytest
import scripts

OPTIONS = ("model.name=pixels:network", "data.name=pixels:data", "data.ignore_label=-100")


def test_a_run_with_a_label_that_does_not_count(tmp_path):
    options = (*OPTIONS, "search.budget=0.7", "dense.epochs=20.0", "train.epochs=5.0")
    scripts.search(tmp_path, *options)
    scripts.train(tmp_path, *options)
    found = scripts.results(tmp_path)["train"]
    assert found["dense"]["accuracy"] > 0.95  # 0.7 if the others counted
    assert 0 < found["tuned"]["loss"] < 1


def test_a_test_set_without_any_label_is_refused(tmp_path):
    options = (*OPTIONS, "data.only=True", "search.method=uniform", "search.budget=0.7")
    options = (*options, "dense.epochs=0.5", "train.epochs=0.5")
    scripts.search(tmp_path, *options)
    with pytest.raises(ValueError, match="no label of the test set counts: all of them are ignor"):
        scripts.train(tmp_path, *options)
