"""What a reader needs, and the methods for it with their measured effects: for the catalogue page and `choose`."""

import difflib
from dataclasses import dataclass

from rich.markup import escape

# In place of an effect.
NOT_MEASURED = "not measured here"


@dataclass(frozen=True)
class Answer:
    """A method for a need.

    Attributes:
        method: the loss, calibrator or function, by the name under which the catalogue or the API has it.
        what: what it does, in a few words.
        command: what tries it, or the line of Python that calls it.
        effect: what it changed here, with the interval; `NOT_MEASURED` otherwise.
        page: the page with that number, below ``docs/``; empty without one.
    """

    method: str
    what: str
    command: str
    effect: str = NOT_MEASURED
    page: str = ""


@dataclass(frozen=True)
class Need:
    """A situation of a reader.

    Attributes:
        id: what `lightning-losses choose` takes.
        sentence: the need, in the reader's words.
        words: other words for it, which `choose` and the search take too.
        answers: the methods, the first to try first.
        missing: what the library lacks for it; empty if nothing is known to be missing.
    """

    id: str
    sentence: str
    words: tuple[str, ...]
    answers: tuple[Answer, ...]
    missing: str = ""


NEEDS = (
    Need(
        "teacher",
        "I have a larger network that is better",
        ("kd", "knowledge distillation", "student", "compression", "distil"),
        (
            Answer(
                "kd",
                "matches the teacher's softened probabilities; tune its temperature, which matters most",
                "lightning-losses train experiment=bed_a optimizer.lr=0.09 objective=kd "
                "objective.terms.kd.loss.temperature=32",
                "+4.45 ± 0.98 points of accuracy over labels alone, at a tuned temperature; +2.29 ± 0.93 at 4; with "
                "200 rows +20.65 ± 2.67 and +8.91 ± 2.01",
                "distillation.md",
            ),
            Answer(
                "logit_std_kd",
                "matches the teacher's logits up to scale",
                "lightning-losses train experiment=bed_a optimizer.lr=0.27 objective=logit_std_kd "
                "objective.terms.logit_std_kd.loss.temperature=2",
                "+4.00 ± 1.19 points of accuracy over labels alone; no more than kd at a tuned temperature",
                "results/bed_a.md",
            ),
            Answer(
                "attention_transfer",
                "matches where the teacher's layers are active; for networks with similar feature maps",
                "lightning-losses train experiment=distill objective=attention_transfer data=mnist5k",
            ),
        ),
    ),
    Need(
        "few-labels",
        "I have few labels, and many samples without one",
        ("unlabelled", "unlabeled", "semi-supervised", "self-supervised", "pre-training", "small data"),
        (
            Answer(
                "kd_unlabelled",
                "learns from the teacher's answers where labels are missing",
                "lightning-losses train experiment=bed_a objective=kd_unlabelled data.train_rows=4000 "
                "data.labelled_rows=1000 +teacher_data.labelled_rows=null optimizer.lr=0.09 trainer.max_epochs=47 "
                "objective.terms.kd.loss.temperature=2",
                "+11.92 ± 1.47 points of accuracy over labels alone, with 3,000 rows without a label",
                "results/bed_a_unlabelled.md",
            ),
            Answer(
                "nt_xent",
                "pre-trains without labels: each view picks its sample's other view out of the batch (SimCLR)",
                "lightning-losses train experiment=contrastive_images objective=nt_xent",
                "a linear probe by 300 labels of images 88.88 %; of the features of a network trained on them alone "
                "72.60 %",
                "self_supervised.md",
            ),
            Answer(
                "mixed_barlow_twins",
                "the same without negatives: coordinates of two views agree and do not repeat each other",
                "lightning-losses train experiment=contrastive objective=mixed_barlow_twins optimizer.lr=0.01 "
                "trainer.max_epochs=50",
                "a linear probe by 400 labels of signals +4.50 ± 1.51 points more accurate than of nt_xent, each at a "
                "tuned learning rate; Barlow Twins +3.41 ± 1.43, VICReg +2.66 ± 1.71",
                "results/contrastive.md",
            ),
        ),
        "Without a teacher there is no method yet that learns from labels and from the other samples at once.",
    ),
    Need(
        "noisy-labels",
        "My labels are noisy",
        ("label noise", "noise", "wrong labels", "mislabelled", "robust"),
        (
            Answer(
                "gce",
                "cross-entropy whose pull at unlikely labels is bounded; tune its exponent",
                "lightning-losses train experiment=classify objective=gce data=mnist1d model=wide_conv1d "
                "data.rows=2000 data.batch_size=125 data.label_noise=0.4 optimizer.lr=0.03 "
                "optimizer.weight_decay=0.01 trainer.max_epochs=47 objective.terms.gce.loss.q=0.5",
                "+23.22 ± 3.18 points of accuracy over cross-entropy with 40 % of the labels wrong (MNIST-1D), -0.01"
                " ± 0.63 with none",
                "results/noise.md",
            ),
            Answer(
                "bdkd",
                "two networks learn from the labels and, by balanced divergences, from each other",
                "lightning-losses train experiment=online_distill objective=bdkd data=mnist1d model=conv1d "
                "teacher=wide_conv1d model.width=16 teacher.width=32 data.train_rows=1000 data.label_noise=0.3 "
                "optimizer.lr=0.09 optimizer.weight_decay=0.01 trainer.max_epochs=188 "
                "objective.terms.bdkd.loss.temperature=4",
                "+17.40 ± 1.72 points of accuracy over cross-entropy with 30 % of the labels wrong (MNIST-1D), "
                "beside a network of twice the width; mutual_learning +13.93 ± 2.16, with a larger calibration error",
                "results/bed_a_online.md",
            ),
            Answer(
                "self_distill_gt",
                "learns from the labels and from a larger network that was trained on the same labels",
                "lightning-losses train experiment=distill objective=self_distill_gt data=mnist5k data.label_noise=0.3 "
                "data.batch_size=128 model.width=6 teacher.width=12 teacher.depth=1 trainer.max_epochs=10",
                "+3.42 ± 0.93 points of accuracy over cross-entropy with 30 % of the labels wrong",
                "noisy_labels.md",
            ),
            Answer(
                "temperature",
                "a calibrator: repairs the confidence that noise lowers; accuracy stays",
                "lightning-losses calibrate logits=validation.npz",
                "ECE from 36.23 ± 1.88 % to 3.63 ± 0.58 % with 30 % of the labels wrong",
                "noisy_labels.md",
            ),
        ),
        "Methods that replace wrong labels, or train on them as if they had none (DivideMix), are not in the library.",
    ),
    Need(
        "rare-classes",
        "I have few samples of some classes",
        ("imbalance", "imbalanced", "long tail", "long-tailed", "class weights"),
        (
            Answer(
                "ldam",
                "asks for a margin, larger for rare classes; with class weights that wait for the last epochs",
                "lightning-losses train experiment=long_tail objective=ldam +model.cosine_head=true "
                "objective.terms.ldam.loss.beta=0.9999 objective.terms.ldam.loss.max_margin=0.3 optimizer.lr=0.09 "
                "optimizer.weight_decay=0.01 trainer.max_epochs=94 callbacks=deferred_reweighting "
                "callbacks.deferred_reweighting.start_epoch=75",
                "balanced accuracy +8.43 ± 2.49 points over cross-entropy",
                "results/long_tail.md",
            ),
            Answer(
                "balanced_softmax",
                "adds the logarithm of the classes' counts to the logits in training: logit adjustment with a factor"
                " of 1",
                "lightning-losses train experiment=long_tail objective=balanced_softmax optimizer.lr=0.09 "
                "optimizer.weight_decay=0.01 trainer.max_epochs=94",
                "balanced accuracy +2.26 ± 1.56 points over cross-entropy; logit_adjustment with a factor tuned to "
                "0.25 -0.71 ± 1.50",
                "results/long_tail.md",
            ),
            Answer(
                "logit_adjuster",
                "a calibrator: does the same to the logits of a network that is trained already",
                "lightning-losses calibrate logits=validation.npz calibrator=logit_adjuster "
                "calibrator.class_counts=[400,40,4,4]",
            ),
        ),
        "Samplers that show rare classes more often, and mixing that makes samples of them, are not in the library.",
    ),
    Need(
        "many-labels",
        "My samples have several labels each",
        ("multi-label", "multilabel", "multi-hot", "tags", "missing labels"),
        (
            Answer(
                "asymmetric",
                "focuses labels that a sample lacks more than those that it has; single labels may be unknown",
                "lightning-losses train experiment=multilabel objective=asymmetric optimizer.lr=0.001 "
                "optimizer.weight_decay=0.01 trainer.max_epochs=30",
                "macro F1 48.32 % beside 41.44 % of binary cross-entropy; mean average precision -0.13 ± 0.57 points",
                "results/multilabel.md",
            ),
            Answer(
                "hill",
                "lets labels go that are said to be lacking but found likely, since they may be missing",
                "lightning-losses train experiment=multilabel objective=hill optimizer.lr=0.001 "
                "optimizer.weight_decay=0.01 trainer.max_epochs=30",
                "micro F1 65.29 ± 0.56 beside 63.39 ± 0.98 % of binary cross-entropy; mean average precision 2.84 "
                "points lower",
                "results/multilabel.md",
            ),
            Answer(
                "decoupled_softmax",
                "ranks thousands of labels, without pushing one of a sample's labels down for another",
                "lightning-losses train experiment=extreme objective=decoupled_softmax",
                "precision@1 +4.55 ± 1.13 points over binary cross-entropy, +2.84 ± 0.97 over multilabel_infonce",
                "results/extreme.md",
            ),
        ),
    ),
    Need(
        "probabilities",
        "I need probabilities that can be trusted",
        (
            "calibration",
            "calibrate",
            "ece",
            "overconfident",
            "confidence",
            "uncertainty",
            "conformal",
            "prediction sets",
            "prediction intervals",
        ),
        (
            Answer(
                "temperature",
                "a calibrator: one number, fitted after training on validation logits; accuracy stays",
                "lightning-losses calibrate logits=validation.npz",
                "ECE from 13.24 ± 0.75 % to 1.99 ± 0.25 %, of a network that fits its training data",
                "results/bed_a_calibration.md",
            ),
            Answer(
                "mixup",
                "trains on mixtures of samples; where classes overlap in part, calibrates better than one temperature",
                "lightning-losses train experiment=mixup data=mnist1d model=conv1d data.train_rows=1000 "
                "optimizer.lr=0.09 optimizer.weight_decay=0.01 trainer.max_epochs=188",
                "ECE -4.35 ± 0.88 points as trained, -0.77 ± 0.30 after temperature scaling",
                "calibration.md",
            ),
            Answer(
                "focal",
                "gives less weight to samples that are already right, which holds confidence down",
                "lightning-losses train experiment=classify objective=focal data=mnist1d model=conv1d "
                "data.train_rows=1000 optimizer.lr=0.09 optimizer.weight_decay=0.01 trainer.max_epochs=188",
                "ECE -8.79 ± 0.97 points as trained; after temperature scaling no gain",
                "calibration.md",
            ),
            Answer(
                "aps",
                "sets of classes that hold the true one as often as you ask, whatever the network",
                "lightning-losses calibrate logits=validation.npz calibrator=aps",
                "90.11 ± 0.44 % of the rows covered where 90 % were asked for, with 2.048 ± 0.144 of 10 classes a set",
                "calibration.md",
            ),
            Answer(
                "beta_nll",
                "for a number in place of a class: its mean and its variance, learned together",
                "lightning-losses train experiment=regress objective=beta_nll",
            ),
        ),
    ),
    Need(
        "large-vocabulary",
        "My vocabulary is large, and the head runs out of memory",
        ("vocabulary", "language model", "llm", "memory", "fused", "cross-entropy kernel"),
        (
            Answer(
                "linear_cross_entropy",
                "cross-entropy from hidden states, without ever holding [tokens, vocabulary]",
                "loss = linear_cross_entropy(hidden, head.weight, tokens)",
                "0.41 of the time and 5.3 % of the memory in float32, at 32,768 words, on an AMD EPYC of Zen 5; on "
                "Zen 4 0.68 to 0.79 of the time",
                "kernels.md",
            ),
            Answer(
                "linear_distillation",
                "the same between a student's head and a teacher's",
                "value = linear_distillation(hidden, weight, teacher_hidden, teacher_weight, objective=KD())",
                "0.44 of the time and 4.3 % of the memory in float32, at 32,768 words, on an AMD EPYC of Zen 5",
                "kernels.md",
            ),
        ),
        "The kernels of today were not measured on a GPU yet; earlier ones were.",
    ),
    Need(
        "rewards",
        "I train a language model by rewards of what it says",
        (
            "reinforcement learning",
            "grpo",
            "policy gradient",
            "ppo",
            "rloo",
            "gspo",
            "dapo",
            "verifiable rewards",
            "reinforce",
        ),
        (
            Answer(
                "grpo",
                "clips ratios of tokens; advantages over the other answers to the prompt, by group_advantage",
                "GRPO(aggregation='seq_mean')(logps, group_advantage(rewards, group_size=8), old_logps, mask)",
                "completions of code that parse from 10.17 ± 1.68 % to 95.03 ± 2.51 %, by brevity",
                "policy_gradients.md",
            ),
            Answer(
                "rloo",
                "one ratio for the whole answer, the others' mean as baseline: no length divides its gradient",
                "RLOO()(logps, rloo_advantage(rewards, group_size=8), old_logps, mask)",
                "completions of code that parse from 10.17 ± 1.68 % to 95.00 ± 2.10 %, by brevity",
                "policy_gradients.md",
            ),
            Answer(
                "gspo",
                "clips the geometric mean of an answer's ratios, so that an answer is clipped as a whole",
                "GSPO()(logps, group_advantage(rewards, group_size=8), old_logps, mask)",
            ),
            Answer(
                "ppo_clip",
                "the same with a critic, whose loss is ppo_value_loss, and advantages by gae",
                "PPOClip()(logps, gae(token_rewards, values, mask).advantages, old_logps, mask)",
                "completions of code that parse from 10.17 ± 1.68 % to 96.12 ± 0.93 %, by brevity",
                "policy_gradients.md",
            ),
        ),
        "Faster engines for sampling, such as vLLM: the network itself samples.",
    ),
    Need(
        "decoding",
        "My language model is trained, and I decide how it writes",
        (
            "generate",
            "sampling",
            "logits processor",
            "mirostat",
            "knn-lm",
            "perplexity control",
            "on-policy distillation",
        ),
        (
            Answer(
                "KNNLM",
                "mixes in what followed the nearest hidden states of a datastore, without training",
                "lightning-losses train experiment=decode",
                "2.2492 nats a byte against 2.3046 of the network alone: -0.0554 ± 0.0186 on one text",
                "decoding.md",
            ),
            Answer(
                "MirostatV2",
                "holds the surprise of what is drawn at a target, if the network's own lies above it",
                "generate(network, prompts, 100, processors=[MirostatV2(target_surprise=3.0)])",
                "2.0933 ± 0.0552 bits a byte at a target of 2; a target of 1 was out of reach",
                "decoding.md",
            ),
            Answer(
                "EntropyAdaptiveDecoding",
                "asks a large network only where a small one is unsure",
                "generate(small, prompts, 100, processors=[EntropyAdaptiveDecoding(large, threshold=1.0)])",
            ),
            Answer(
                "OnPolicyDistillationMixin",
                "distils a teacher on what the student itself draws (GKD)",
                "OnPolicyDistiller(teacher, prompt_length=32, network=student, objective=objective)",
            ),
        ),
        "Beams; caches of keys and values for networks other than our transformer.",
    ),
    Need(
        "memorises",
        "My network memorises, and does not generalise",
        ("grokking", "grok", "memorisation", "memorizes", "overfitting", "generalisation"),
        (
            Answer(
                "OrthogonalGradient",
                "removes the part of the gradient that only scales the weights",
                "lightning-losses train experiment=grok_perpgrad",
                "test accuracy from 0.1 % to 100.0 % [99.8, 100.0] on modular addition",
                "results/grok_perpgrad.md",
            ),
            Answer(
                "stablemax_cross_entropy",
                "a softmax that does not saturate in floating point",
                "lightning-losses train experiment=grok_stablemax",
                "test accuracy from 53.5 ± 3.2 % to 69.8 ± 22.4 % on sparse parity",
                "results/grok_stablemax.md",
            ),
        ),
        "On ordinary images or text neither was measured.",
    ),
    Need(
        "accuracy",
        "I want the same network to be more accurate, at some cost in training",
        ("flat minima", "sharpness aware minimization", "sam", "sharpness", "swa", "generalise better"),
        (
            Answer(
                "SAM",
                "steps by the gradient where the loss nearby is largest; two passes a step; callbacks=sam in a run",
                "lightning-losses train experiment=flat_minima",
                "accuracy +1.40 ± 0.50 points on MNIST-1D",
                "robustness.md",
            ),
            Answer(
                "mesa",
                "learns from the moving average of its own weights; one pass more, without gradient",
                "lightning-losses train experiment=flat_minima",
                "accuracy from 93.66 ± 0.73 to 95.16 ± 0.61 % on MNIST-1D",
                "robustness.md",
            ),
            Answer(
                "saf",
                "learns from its own predictions of some epochs ago; nearly free",
                "lightning-losses train experiment=flat_minima",
                "accuracy from 93.66 ± 0.73 to 94.84 ± 0.49 % on MNIST-1D",
                "robustness.md",
            ),
            Answer(
                "SWAG",
                "an ensemble of weights drawn near the end of one training",
                "lightning-losses train experiment=flat_minima",
                "negative log-likelihood -0.032 ± 0.008 on MNIST-1D",
                "robustness.md",
            ),
        ),
    ),
    Need(
        "foreign-inputs",
        "Inputs may come that are unlike all training data, and I want to notice",
        ("out of distribution", "ood", "anomaly", "novelty", "unknown classes"),
        (
            Answer(
                "OutOfDistribution",
                "logs how well scores tell foreign data: nearest neighbours, Mahalanobis, energy, ODIN and others",
                "lightning-losses train experiment=out_of_distribution",
                "AUROC on images of another source 85.0 ± 2.8 % by the probability, 89.1 ± 2.7 % by nearest neighbours",
                "robustness.md",
            ),
        ),
    ),
    Need(
        "shift",
        "My data change after training, and there are no labels of the new ones",
        ("test time adaptation", "corruptions", "covariate shift", "tent"),
        (
            Answer(
                "TestTimeAdaptation",
                "adapts in validation and test: statistics of the batch, TENT, SAR, EATA, DeYO, a robust mean teacher",
                "lightning-losses train experiment=test_time",
                "error on corrupted digits from 77.15 ± 8.03 % to 27.69 ± 4.96 % by statistics of the batch alone, "
                "to 21.45 ± 3.09 % by the robust mean teacher",
                "robustness.md",
            ),
        ),
    ),
    Need(
        "no-teacher",
        "I want what distillation gives, without a teacher",
        ("self-distillation", "teacher-free", "born again"),
        (
            Answer(
                "uskd",
                "makes soft labels from the network's own predictions",
                "lightning-losses train experiment=self_distill objective=uskd data=mnist1d model=conv1d "
                "model.width=16 data.train_rows=1000 optimizer.lr=0.09 optimizer.weight_decay=0.01 "
                "trainer.max_epochs=188",
                "+2.19 ± 1.22 points of accuracy over labels alone (MNIST-1D); ECE 5.79 ± 0.51 %, not 13.19 ± 0.82 %",
                "results/bed_a_further.md",
            ),
            Answer(
                "pskd",
                "mixes the labels with the network's own past predictions",
                "lightning-losses train experiment=self_distill objective=pskd data=mnist1d model=conv1d "
                "model.width=16 data.train_rows=1000 optimizer.lr=0.09 optimizer.weight_decay=0.01 "
                "trainer.max_epochs=188 objective.terms.pskd.loss.alpha=0.6",
                "-2.79 ± 0.94 points of accuracy beside labels alone (MNIST-1D): worse",
                "results/bed_a_further.md",
            ),
        ),
    ),
    Need(
        "embeddings",
        "I train embeddings for retrieval",
        ("metric learning", "retrieval", "contrastive", "similarity"),
        (
            Answer(
                "clip_contrastive",
                "each text picks its partner out of the batch, and the partner it (InfoNCE in both directions)",
                "lightning-losses train experiment=retrieval_pretrained",
                "MRR of MiniLM from 58.31 to 64.01 % on docstrings and code; mw_loss 62.20 %",
                "retrieval.md",
            ),
            Answer(
                "maxsim",
                "compares a vector for each token, not one for each text",
                "lightning-losses train experiment=multi_vector",
                "MRR 60.06 ± 2.28 % with all tokens of frozen MiniLM projected, 54.08 ± 2.58 % with one mean",
                "retrieval.md",
            ),
            Answer(
                "rkd",
                "matches distances and angles between a teacher's embeddings; needs no pairs",
                "lightning-losses train experiment=distill_embeddings",
                "MRR from 35.5 to 42.4 [38.9, 45.9] % on docstrings",
                "embedding_distillation.md",
            ),
            Answer(
                "supcon",
                "draws samples of one class together, so that classes that were never seen lie apart too",
                "lightning-losses train experiment=metric_learning objective=supcon '~objective.terms.ce' "
                "objective.terms.supcon.inputs.embeddings=embeddings",
                "of digits that training left out the nearest is of the same class for 92.43 ± 1.20 %; triplets "
                "73.36 ± 2.75 %",
                "results/metric_learning.md",
            ),
        ),
    ),
    Need(
        "experts",
        "I train a mixture of experts",
        ("mixture of experts", "moe", "router", "load balancing", "gating"),
        (
            Answer(
                "load_balancing",
                "spreads the tokens evenly over the experts; weight 0.01",
                "LoadBalancing(top_k=2)(router_logits, attention_mask)",
            ),
            Answer(
                "router_z_loss",
                "keeps the router's logits small, so that rounding chooses no other experts; weight 0.001",
                "RouterZLoss()(router_logits, attention_mask)",
            ),
        ),
    ),
    Need(
        "domains",
        "My data come from several domains, and the network must hold in one that it never saw",
        ("domain generalisation", "domain generalization", "distribution shift", "spurious correlation", "irm"),
        (
            Answer(
                "coral",
                "the features of all domains shall have the same mean and covariance; needs no labels of the domain",
                "lightning-losses train experiment=left_out_domain objective=coral",
                "mean accuracy over rotations left out +0.50 ± 0.36 points, in experiment=domains, which leaves out "
                "each in turn",
                "domains.md",
            ),
            Answer(
                "irm_v1",
                "no domain would gain from other logits; for colours and other shortcuts, and only with a tuned weight",
                "lightning-losses train experiment=left_out_domain objective=irm_v1 data=coloured_digits",
                "worst domain +30.68 ± 11.66 points in experiment=domains, if that domain chooses the weight; nothing "
                "if validation does",
                "domains.md",
            ),
            Answer(
                "domain_mixup",
                "trains on mixtures of samples of two domains",
                "lightning-losses train experiment=domain_mixup objective=domain_mixup",
                "mean accuracy over rotations left out 52.11 ± 0.71 % beside 53.85 ± 0.81 % of cross-entropy, in "
                "experiment=domains: worse",
                "domains.md",
            ),
            Answer(
                "group_dro",
                "the worst domain weighs most; for groups that are known in training",
                "lightning-losses train experiment=left_out_domain objective=group_dro",
                "mean accuracy over rotations left out +0.90 ± 0.30 points, in experiment=domains, which leaves out "
                "each in turn",
                "domains.md",
            ),
        ),
    ),
    Need(
        "attacks",
        "Somebody may change my inputs a little, so that the network is wrong",
        ("adversarial", "adversarial examples", "adversarial training", "robust accuracy", "pgd"),
        (
            Answer(
                "trades",
                "cross-entropy, and a weight on how far an attack moves the prediction",
                "lightning-losses train experiment=adversarial_training objective=trades attack.loss=kl_divergence "
                "attack.random_start=normal attack.step_size=0.035 attack.steps=5 model.width=16 trainer.max_epochs=10",
                "accuracy under attack from 1.48 ± 1.48 to 88.44 ± 2.69 % on MNIST-5k",
                "robustness.md",
            ),
            Answer(
                "adversarial_ce",
                "plain adversarial training: cross-entropy of attacked inputs",
                "lightning-losses train experiment=adversarial_training objective=adversarial_ce "
                "attack.step_size=0.035 attack.steps=5 model.width=16 trainer.max_epochs=10",
                "accuracy under attack from 1.48 ± 1.48 to 86.48 ± 3.00 % on MNIST-5k",
                "robustness.md",
            ),
            Answer(
                "RobustAccuracy",
                "measures what is left under attacks, and warns where a network hides its gradient",
                "lightning-losses train experiment=classify objective=ce callbacks=robust_accuracy",
            ),
        ),
        "Certified bounds: what holds under the attacks here may fall under others.",
    ),
    Need(
        "unlearning",
        "My language model is to forget some texts, or I ask what it remembers",
        ("forget", "machine unlearning", "membership inference", "privacy", "audit"),
        (
            Answer(
                "npo",
                "makes texts less likely than a reference has them, within bounds; beside it, text to retain",
                "lightning-losses train experiment=unlearning objective=npo",
                "membership's area under the ROC curve from 73.80 ± 0.63 to 51.99 ± 1.49 %, beside 50.53 ± 1.76 of a "
                "model that never saw the text; other text 2.563 ± 0.030 nats per byte, 2.440 ± 0.012 before",
                "unlearning.md",
            ),
            Answer(
                "simnpo",
                "the same without a reference, by the mean over a text's tokens",
                "lightning-losses train experiment=unlearning objective=simnpo",
                "membership's area under the ROC curve from 73.80 ± 0.63 to 67.25 ± 0.48 %: it forgets little at the "
                "weight of its code, 0.125; other text 2.395 ± 0.020 nats per byte",
                "unlearning.md",
            ),
            Answer(
                "grad_diff",
                "gradient ascent on what to forget, with text to retain; has no bound",
                "lightning-losses train experiment=unlearning objective=grad_diff",
                "other text from 2.440 ± 0.012 to 8.053 ± 1.485 nats per byte: it collapses",
                "unlearning.md",
            ),
            Answer(
                "UnlearningMixin",
                "gives your module the log-probabilities of what to forget and what to retain, and a reference's",
                "lightning-losses train experiment=unlearning",
            ),
        ),
    ),
    Need(
        "preferences",
        "I align a language model with preferences",
        ("dpo", "rlhf", "chosen and rejected", "alignment"),
        (
            Answer(
                "dpo",
                "chosen above rejected completions, held to a reference; the one to begin with",
                "DPO(beta=0.1)(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)",
                "completions of code that parse from 10.17 ± 1.68 % to 73.57 ± 19.63 %",
                "preferences.md",
            ),
            Answer(
                "simpo",
                "mean log-probabilities as rewards, without a reference",
                "SimPO(beta=2.0, gamma=0.5)(chosen_logps, rejected_logps, chosen_mask, rejected_mask)",
                "completions of code that parse from 10.17 ± 1.68 % to 72.75 ± 15.21 %",
                "preferences.md",
            ),
            Answer(
                "ipo",
                "a margin to reach and no more, where one completion is always preferred",
                "IPO(beta=0.1)(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)",
            ),
            Answer(
                "orpo",
                "fine-tuning and preferences in one training, without a reference",
                "ORPO(beta=0.1)(chosen_logps, rejected_logps, chosen_mask, rejected_mask)",
                "completions of code that parse from 10.17 ± 1.68 % to 76.05 ± 4.90 %",
                "preferences.md",
            ),
            Answer(
                "kto",
                "completions that are good or bad by themselves, without pairs",
                "KTO(beta=0.1)(logps, ref_logps, desirable, mask, mismatched_logps, ref_mismatched_logps)",
                "completions of code that parse from 10.17 ± 1.68 % to 83.17 ± 1.68 %",
                "preferences.md",
            ),
            Answer(
                "inpo",
                "a preference that no reward explains: the policy nears its Nash policy from its own completions",
                "INPO(tau=0.1, eta=1.0)(chosen_logps, rejected_logps, *of_reference, *of_previous_policy)",
            ),
            Answer(
                "bradley_terry",
                "a reward model from pairs, for the methods that want rewards",
                "BradleyTerry()(chosen_rewards, rejected_rewards)",
            ),
        ),
    ),
)


def choose(word: str) -> Need:
    """The need of that id, or the one that the word describes, or that a method of this name answers.

    Raises:
        ValueError: no need has that id or word.

    Example:
        >>> choose("noisy labels").answers[0].method
        'gce'
        >>> choose("KD").id
        'teacher'
    """
    wanted = _plain(word)
    by_word = {_plain(answer.method): need for need in NEEDS for answer in need.answers}
    by_word |= {_plain(name): need for need in NEEDS for name in (need.id, need.sentence, *need.words)}
    if wanted in by_word:
        return by_word[wanted]
    near = difflib.get_close_matches(wanted, by_word, n=1)
    meant = f"did you mean {by_word[near[0]].id}? Give" if near else "give"
    raise ValueError(f"choose: {word!r} came; {meant} one of {', '.join(need.id for need in NEEDS)}.")


def _plain(word: str) -> str:
    return word.lower().replace("-", " ").replace("_", " ").strip()


def needs_list() -> str:
    """Every need with its number, for a terminal."""
    width = max(len(need.id) for need in NEEDS)
    lines = [f"{number:>2}  {need.id:<{width}}  {need.sentence}" for number, need in enumerate(NEEDS, start=1)]
    return "\n".join(["Which do you need?", "", *lines, ""])


def need_text(need: Need) -> str:
    """A need with its methods, effects and commands, in rich's markup."""
    lines = [f"[bold]{escape(need.sentence)}[/bold]", ""]
    for answer in need.answers:
        source = f" (docs/{answer.page})" if answer.page else ""
        lines += [f"[bold]{answer.method}[/bold]: {escape(answer.what)}"]
        lines += [f"  effect   {escape(answer.effect)}{source}", f"  command  {escape(answer.command)}", ""]
    if need.missing:
        lines += [f"Missing: {escape(need.missing)}"]
    return "\n".join(lines).rstrip()
