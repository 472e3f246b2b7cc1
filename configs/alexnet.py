"""AlexNet as the paper describes it.

ImageNet Classification with Deep Convolutional Neural Networks, Krizhevsky,
Sutskever and Hinton, NIPS 2012. Sections (§) in the comments are the paper's.

  python main.py --config=configs/alexnet.py --workdir=runs/alexnet
  python main.py --config=configs/alexnet.py:imagenet2012 --workdir=runs/1k
  python main.py --config=configs/alexnet.py:imagenette --workdir=runs/ten
  python main.py --config=configs/alexnet.py:folder \
      --config.dataset.train_dir=PHOTOS --workdir=runs/photos
  python main.py --config=configs/alexnet.py:prepared \
      --config.dataset.dir=DIR --workdir=runs/photos

The argument behind the colon is the dataset: `digits` (the default: small,
embedded in scikit-learn, needs no download), `folder` (class subfolders of JPEG
or PNG files), `prepared` (what `python -m input_pipeline.prepare` has written:
the fastest), or the name of a classification dataset of TensorFlow Datasets.

Expected with imagenet2012: 40.7 % top-1 and 18.2 % top-5 error on the
validation set with ten views (paper, Table 2: 1 CNN), after about 90 epochs.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the paper's recipe for a dataset, see the module's docstring."""
  config = ml_collections.ConfigDict()

  # Initialization, dropout, order of the examples, crops, flips and lighting
  # are functions of this number and of the step.
  config.seed = 0

  # Examples in one update, over all devices (§5).
  config.batch_size = 128
  # Parts that a device computes its share of a batch in, one after the other,
  # for the same update with less memory.
  config.accumulation = 1
  # How long, and how often. 'N epochs', 'N steps' or 'N examples'; 'never'.
  # The paper: "roughly 90 cycles through the training set" (§5).
  config.duration = '90 epochs'
  # End earlier: at the first line of the log (see log_every) whose training
  # error is at most this. Unset: no such end.
  config.until_train_error = placeholder(float)
  config.evaluate_every = '1 epochs'
  config.checkpoint_every = '1 epochs'
  config.log_every = '10 steps'
  # Checkpoints to keep, the newest first.
  config.keep_checkpoints = 2
  # Checkpoints to keep besides: those of the best evaluations, by top-1. With
  # it a run also saves itself when an evaluation is one of the best so far.
  config.keep_best = 0
  # Examples in one batch of an evaluation; changes its speed only.
  config.evaluation_batch_size = 128
  # Evaluate with ten views at the end (§4.1): ten times the work.
  config.ten_views = True
  # Training images, from all over the set, that a forward and a backward pass
  # is made of at each evaluation, beside training: mean, deviation and zeros of
  # each layer's output, norms of parameters, gradients and updates, as records
  # 'layers' of metrics.jsonl. 0: none.
  config.layer_statistics_images = 64
  # Draw the kernels of the first layer, and predictions for a few images, at
  # each evaluation: workdir/images/ and TensorBoard, and histograms of the
  # parameters in the latter.
  config.log_images = False

  config.pretrained = _pretrained()
  config.bad_steps = _bad_steps()
  config.model = _model()
  config.optimizer = _optimizer()
  config.schedule = _schedule()
  config.dataset = _dataset(data)
  config.augmentation = _augmentation()
  config.mesh = _mesh()

  if data == 'digits':
    adapt_to_digits(config)
  return config


def _pretrained():
  # Start from another run's parameters, of its newest checkpoint, instead of
  # random ones; the update's velocity starts at zero all the same. workdir: of
  # that run. layers: those to take, such as ('conv1', 'conv2'); () takes all
  # whose name and shapes agree.
  pretrained = ml_collections.ConfigDict()
  pretrained.workdir = placeholder(str)
  pretrained.layers = ()
  return pretrained


def _bad_steps():
  # Steps whose loss or gradient is no number, or whose loss is more than
  # `spike` times the usual one (unset: no such limit), see docs/faults.md.
  # action: 'stop', 'skip' (nothing changes by such a step) or 'rollback' (back
  # to the newest checkpoint, and on with the data behind the batch). limit: of
  # steps skipped in a row, or of rollbacks in a run, before it stops.
  bad_steps = ml_collections.ConfigDict()
  bad_steps.action = 'stop'
  bad_steps.spike = placeholder(float)
  bad_steps.limit = 5
  return bad_steps


def _model():
  model = ml_collections.ConfigDict()
  # Which network; configs/cuda_convnet.py has the other.
  model.name = 'alexnet'
  # Output classes. Unset: as many as the dataset has.
  model.num_classes = placeholder(int)
  # 2 towers that see each other in conv3, fc6, fc7 and fc8 only (§3.2, §3.5,
  # Figure 2), or 1. Features below are those of all towers together.
  model.towers = 2
  # Factor of all features but the classes, for experiments on a small machine;
  # deviations of the initialization are divided by its root in all layers but
  # the first, so that activities keep their size.
  model.width = 1.0
  # 'relu' (§3.1), 'tanh' or 'sigmoid', after every hidden layer.
  model.activation = 'relu'
  _add_layers(model)
  # 'paper': x * mask in training, x * (1 - rate) in testing (§4.2).
  # 'inverted': x * mask / (1 - rate) in training, the form that is usual now:
  # another problem at the same initialization and learning rate.
  model.dropout_kind = 'paper'
  # Local response normalization (§3.3): x / (k + alpha * sum x^2)^beta.
  model.lrn = dict(
      enabled=True, n=5, k=2.0, alpha=1e-4, beta=0.75,
      # The authors' code and Caffe divide alpha by n, the paper does not.
      divide_alpha_by_n=False,
      # Whether a window may cross the seam between the towers, as in Caffe's
      # network; on one device only.
      across_towers=False,
  )
  # A second normalization, over pixels, of the authors' code; not in the paper.
  model.spatial_norm = dict(
      enabled=False, size=5, k=1.0, alpha=1e-3, beta=0.75
  )
  # Overlapping max pooling (§3.4); windows are counted by ceiling.
  model.pool = dict(window=3, stride=2)
  # 'float32' or 'bfloat16': what layers compute in. Parameters, normalization
  # sums and logits are float32.
  model.dtype = 'float32'
  # What products of float32 are on GPUs since Ampere: 'tensorfloat32' (10 bits
  # of mantissa, much faster) or 'highest' (float32); see docs/gpus.md. Without
  # effect on CPUs, and with bfloat16.
  model.precision = 'tensorfloat32'
  return model


def _add_layers(model):
  # One record a layer, as in Figure 2 and §3.5:
  #   features  output channels or units; 0 leaves the layer out
  #   size      side of the kernel, in pixels
  #   stride    in pixels
  #   padding   rows and columns of zeros (top and left, bottom and right)
  #   reads     'image', or the features of its 'own' tower or of 'both'
  #   stddev    of the Gaussian initialization of the kernel (§5: 0.01)
  #   bias      initial value (§5: 1 in conv2, conv4, conv5, fc6, fc7; else 0)
  #   after     what follows, in this order: 'activation', 'lrn',
  #             'spatial_norm', 'pool' (§3.5: response normalization follows
  #             conv1 and conv2, pooling both of these and conv5)
  #   dropout   probability of dropping a unit in training (§4.2: 0.5)
  # The paper has 55 x 55 outputs from 224 x 224 images in conv1 and does not
  # say how; that takes three rows of zeros.
  model.conv1 = dict(
      features=96, size=11, stride=4, padding=(1, 2), reads='image',
      stddev=0.01, bias=0.0, after=('activation', 'lrn', 'pool'),
  )
  model.conv2 = dict(
      features=256, size=5, stride=1, padding=(2, 2), reads='own',
      stddev=0.01, bias=1.0,
      after=('activation', 'lrn', 'spatial_norm', 'pool'),
  )
  model.conv3 = dict(
      features=384, size=3, stride=1, padding=(1, 1), reads='both',
      stddev=0.01, bias=0.0, after=('activation',),
  )
  model.conv4 = dict(
      features=384, size=3, stride=1, padding=(1, 1), reads='own',
      stddev=0.01, bias=1.0, after=('activation',),
  )
  model.conv5 = dict(
      features=256, size=3, stride=1, padding=(1, 1), reads='own',
      stddev=0.01, bias=1.0, after=('activation', 'pool'),
  )
  # A sixth convolution, over the last pooling (§6, "1 CNN*"; run #146: 256
  # features). Left out.
  model.conv6 = dict(
      features=0, size=3, stride=1, padding=(1, 1), reads='both',
      stddev=0.03, bias=1.0, after=('activation',),
  )
  model.fc6 = dict(
      features=4096, reads='both', stddev=0.01, bias=1.0, dropout=0.5
  )
  model.fc7 = dict(
      features=4096, reads='both', stddev=0.01, bias=1.0, dropout=0.5
  )
  model.fc8 = dict(reads='both', stddev=0.01, bias=0.0)


def _optimizer():
  optimizer = ml_collections.ConfigDict()
  # v <- momentum * v - decay * rate * w - rate * gradient;  w <- w + v  (§5)
  optimizer.momentum = 0.9
  optimizer.weight_decay = 0.0005
  # Factors for biases. §5 speaks of one rate "for all layers" and does not
  # except biases from decay.
  optimizer.bias_rate_multiplier = 1.0
  optimizer.bias_decay_multiplier = 1.0
  # (layer, factor) of the rates of a layer's kernel and bias, whatever the
  # schedule says, such as (('conv1', 0.1),); 0 freezes it. Instead of a layer
  # also the path of parameters, or a pattern of paths, see
  # alexnet/models/parameters.py: ('conv1/bias', 2.0), ('conv*', 0.1). Of those
  # that match a parameter, the last one counts.
  optimizer.layer_rate_factors = ()
  # Likewise of weight_decay, such as (('*', 0.0), ('*/kernel', 1.0)): kernels
  # alone decay. As if ('*/bias', bias_decay_multiplier) came before these.
  optimizer.layer_decay_factors = ()
  return optimizer


def _schedule():
  schedule = ml_collections.ConfigDict()
  # 'constant', 'plateau' (§5), 'steps' or 'geometric'.
  schedule.name = 'plateau'
  # Initial rate (§5).
  schedule.learning_rate = 0.01
  # For larger batches, see docs/scaling.md; the paper knows neither. All rates,
  # whatever gives them, are multiplied by batch_size / reference_batch_size
  # ('linear': Goyal et al. 2017), by its root ('sqrt': Krizhevsky 2014) or by
  # nothing ('none'). The rates of this recipe were chosen for the batch named
  # here.
  schedule.batch_scaling = 'none'
  schedule.reference_batch_size = 128
  # Epochs in which all rates grow from nearly nothing to what they are, in
  # equal steps; 0: none (Goyal et al.: 5).
  schedule.warmup_epochs = 0.0
  # plateau: rate * factor when the validation error has not improved for
  # `patience` evaluations, at most max_drops times. §5: "divide the learning
  # rate by 10 when the validation error rate stopped improving ... reduced
  # three times"; the patience was the authors' judgement.
  schedule.plateau = dict(patience=5, factor=0.1, max_drops=3)
  # steps: (epoch, layer or 'all', 'kernel' or 'bias' or 'both', rate) from
  # that epoch on; of two that apply, the later one counts. A rate of 0 freezes:
  # no update at all, momentum included. They come on top of 'geometric' too.
  # Paths and patterns as in optimizer.layer_rate_factors; 'both': all below it.
  schedule.steps = ()
  # geometric: equal stages over the duration, each with its factor of the
  # rate, and how the rate of biases drops half way (the authors' later runs;
  # factors are 250^0, 250^(-1/3), 250^(-2/3), 250^-1).
  schedule.geometric = dict(
      factors=(1.0, 0.15874, 0.025198, 0.004), bias_factor_half_way=0.1
  )
  return schedule


def _dataset(data):
  dataset = ml_collections.ConfigDict()
  # 'digits', 'folder', 'prepared', or a name of TensorFlow Datasets.
  dataset.name = data
  # folder: class subfolders. Without eval_dir, eval_fraction of train_dir's
  # images, chosen by split_seed, are held out.
  dataset.train_dir = placeholder(str)
  dataset.eval_dir = placeholder(str)
  dataset.eval_fraction = 0.1
  # Chooses the held-out images of a folder and of digits. Unset: `seed`. Runs
  # of several seeds that are to be averaged want the same images.
  dataset.split_seed = placeholder(int)
  # Equal files of a folder of which a part is held out: 'warn' if they come to
  # both sides, or keep them 'together'.
  dataset.copies = 'warn'
  # prepared: the directory. TensorFlow Datasets: where they lie (unset: its own
  # default) and the splits; if prepared/NAME is there, it is used instead.
  dataset.dir = placeholder(str)
  dataset.train_split = 'train'
  dataset.eval_split = 'validation'
  # The shorter side of images is resized to this, in pixels, and the centre
  # square cut out (§2).
  dataset.size = 256
  # What lies under transparent pixels: levels of red, green and blue, 0..255.
  # White is what viewers show. (): nothing, the colour that is stored there
  # counts, as in older runs.
  dataset.background = (255, 255, 255)
  # How the order of images, crops and lighting are drawn: 'index_shuffle', see
  # input_pipeline/batches/draws.py. 'argsort' is that of older runs, which can
  # be evaluated, but not continued.
  dataset.order = 'index_shuffle'
  # Where the statistics of the training set are kept. Unset: beside the data,
  # or in the user's cache directory if that cannot be written.
  dataset.statistics_dir = placeholder(str)
  # Subtracted from every image: 'image', the mean of each pixel over the
  # training set (§2: "the mean activity over the training set from each
  # pixel"), 'channels', its mean colour, or 'imagenet_channels', ImageNet's
  # (built in: with pca = 'imagenet' no statistics have to be computed).
  dataset.mean = 'image'
  # Seconds that reading an image may take before a warning names it. Unset:
  # no warning.
  dataset.stalled_after = 60.0
  # Principal components of the colours: 'imagenet' (built in) or 'dataset'.
  dataset.pca = 'imagenet' if data.startswith('imagenet2012') else 'dataset'
  return dataset


def _augmentation():
  augmentation = ml_collections.ConfigDict()
  # Side of a crop, which the network sees, in pixels (§4.1).
  augmentation.crop_size = 224
  # Offsets of a crop, each way (§4.1: 32 * 32 * 2 = 2048 variants of an image).
  augmentation.crop_offsets = 32
  # Mirror every second image (§4.1).
  augmentation.flip = True
  # Consecutive examples that share one offset and one flip.
  augmentation.images_per_crop = 1
  # Which part of the mean image a crop is reduced by: that 'under' the crop,
  # or its 'centre' whatever the offset.
  augmentation.mean_crop = 'under'
  # PCA lighting (§4.1): along each principal component, N(0, lighting_scale)
  # times its 'eigenvalue' (of pixels in 0..1; read on 0..255 it would shift
  # images by 1,500 levels) or its 'standard_deviation' (of pixels in 0..255);
  # 'none' switches it off.
  augmentation.lighting = 'eigenvalue'
  augmentation.lighting_scale = 0.1
  # While lighting is on, training images are divided by this.
  augmentation.lighting_divisor = 1.0
  # Lighting and divisor end at this epoch. Unset: never.
  augmentation.lighting_until_epoch = placeholder(float)
  return augmentation


def _mesh():
  # Devices. tower: 2 puts each tower on a device of its own. data: replicas
  # that share a batch. Unset: two tower devices where there are at least two
  # accelerators, and replicas on the others.
  mesh = ml_collections.ConfigDict()
  mesh.tower = placeholder(int)
  mesh.data = placeholder(int)
  return mesh


def adapt_to_digits(config: ml_collections.ConfigDict) -> None:
  """Sets what 1,437 small grey images need instead of a million large ones.

  Expected: more than 95 % top-1 on the 360 held-out digits.
  """
  # A mirrored digit is another one, or none.
  config.augmentation.flip = False
  # Grey images have one principal component, brightness, and it says nothing.
  config.augmentation.lighting = 'none'
  config.augmentation.lighting_divisor = 1.0
  # An epoch has 11 batches of 128: too few updates for a short run.
  config.batch_size = 32
  config.duration = '5 epochs'
  # Run #145's initialization. With the paper's the logits of different images
  # hardly differ at first; the loss was still at 2.5 after 50 steps.
  for name in ('conv3', 'conv4', 'conv5'):
    config.model[name].stddev = 0.03
  # At the paper's 0.01 batches this small kept the loss between 0.9 and 1.9
  # for 120 steps; half of it, and then down, makes five epochs enough.
  config.schedule.name = 'geometric'
  config.schedule.learning_rate = 0.005
  config.schedule.reference_batch_size = 32
  config.schedule.geometric.factors = (1.0, 0.3, 0.1, 0.03)
