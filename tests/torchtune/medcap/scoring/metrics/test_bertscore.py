import pytest

from medcap.errors import UserError
from medcap.scoring.metrics.bertscore import bert_scores

pytest.importorskip("bert_score", reason="the extra captions is not installed")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "ct", "of", "the", "chest", "mri"]


@pytest.fixture
def model(tmp_path):
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)).save_pretrained(tmp_path)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(tmp_path)
    return str(tmp_path)


def test_equal_texts_score_1_blank_ones_0_and_long_ones_are_cut(model):
    captions = ["a ct of the chest", "mri of the chest", " ", "chest " * 40]
    references = ["a ct of the chest", "a mri", "a ct", "the chest"]
    same, other, blank, long = bert_scores(captions, references, model, num_layers=2)
    assert same == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
    assert blank == (0.0, 0.0, 0.0)
    assert all(-1.0 <= value < 1.0 for value in (*other, *long))


def test_words_that_all_references_have_weigh_nothing(model):
    assert bert_scores(["a"], ["a"], model, num_layers=2) == [(0.0, 0.0, 0.0)]


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"BERTScore's model .*nothing cannot be loaded .*hf download"):
        bert_scores(["a"], ["a"], str(tmp_path / "nothing"), num_layers=2)
