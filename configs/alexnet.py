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

The argument after the colon is the dataset: `digits` (the default: small,
included in scikit-learn, needs no download), `folder` (class subfolders of JPEG
or PNG files), `prepared` (written by `python -m input_pipeline.prepare`; the
fastest), or the name of a classification dataset of TensorFlow Datasets.

Expected with imagenet2012: 40.7 % top-1 and 18.2 % top-5 error on the
validation set with ten views (paper, Table 2: 1 CNN), after about 90 epochs.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(data: str = 'digits') -> ml_collections.ConfigDict:
  """Returns the paper's recipe for a dataset, see the module's docstring."""
  config = ml_collections.ConfigDict()

  # Determines, with the step, all random numbers: initialization, dropout,
  # order of the examples, crops, flips and lighting.
  config.seed = 0

  # Examples per update, summed over all devices (§5).
  config.batch_size = 128
  # Number of parts in which each device computes its share of a batch, one
  # after the other: the same update with less memory.
  config.accumulation = 1
  # Durations and intervals: 'N epochs', 'N steps', 'N examples' or 'never'.
  # The paper: "roughly 90 cycles through the training set" (§5).
  config.duration = '90 epochs'
  # Stop early, at the first log line (see log_every) with at most this training
  # error. Unset: train for the whole duration.
  config.until_train_error = placeholder(float)
  config.evaluate_every = '1 epochs'
  config.checkpoint_every = '1 epochs'
  config.log_every = '10 steps'
  # Number of newest checkpoints to keep.
  config.keep_checkpoints = 2
  # Number of best checkpoints to keep as well, by top-1 accuracy. If not 0, a
  # run also saves when an evaluation is among the best so far.
  config.keep_best = 0
  # Whether GPUs use only deterministic kernels, chosen without measuring which
  # is fastest (xla_gpu_deterministic_ops). CPUs use no others.
  config.deterministic = False
  # Batch size of evaluations; affects only their speed.
  config.evaluation_batch_size = 128
  # Evaluate ten views at the end (§4.1), which takes ten times as long.
  config.ten_views = True
  # Number of training images used to measure layer statistics at each
  # evaluation: mean, deviation and zeros of each output, norms of parameters,
  # gradients and updates (records 'layers' of metrics.jsonl). 0 disables them.
  config.layer_statistics_images = 64
  # At each evaluation, draw the kernels of the first layer and predictions for
  # a few images (workdir/images/ and TensorBoard), and write histograms of the
  # parameters (TensorBoard).
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
  # Initialize from the newest checkpoint of another run. The velocity of the
  # optimizer starts at zero.
  #   workdir  folder of the other run
  #   layers   layers to take, such as ('conv1', 'conv2'); () takes all whose
  #            name and shapes agree
  pretrained = ml_collections.ConfigDict()
  pretrained.workdir = placeholder(str)
  pretrained.layers = ()
  return pretrained


def _bad_steps():
  # Bad steps have a loss or gradient that is not finite, or a loss of more than
  # `spike` times the usual one; see docs/faults.md.
  #   action  'stop', 'skip' (discard the update) or 'rollback' (return to the
  #           newest checkpoint, and continue with the data after the batch)
  #   spike   unset: no limit
  #   limit   steps skipped in a row, or rollbacks in a run, before it stops
  bad_steps = ml_collections.ConfigDict()
  bad_steps.action = 'stop'
  bad_steps.spike = placeholder(float)
  bad_steps.limit = 5
  return bad_steps


def _model():
  model = ml_collections.ConfigDict()
  # Name of the network; configs/cuda_convnet.py uses the other one.
  model.name = 'alexnet'
  # Number of output classes. Unset: that of the dataset.
  model.num_classes = placeholder(int)
  # Number of towers, 1 or 2. Two towers exchange activations only before conv3,
  # fc6, fc7 and fc8 (§3.2, §3.5, Figure 2). Features are counted over both.
  model.towers = 2
  # Factor of the number of features of all layers but the last, for experiments
  # on small machines. Standard deviations of the initialization are divided by
  # its square root, except in the first layer, so that activations keep their
  # scale.
  model.width = 1.0
  # 'relu' (§3.1), 'tanh' or 'sigmoid', after every hidden layer.
  model.activation = 'relu'
  _add_layers(model)
  # 'paper': x * mask in training, x * (1 - rate) in evaluation (§4.2).
  # 'inverted': x * mask / (1 - rate) in training, the usual form today. It
  # needs its own initialization and learning rate.
  model.dropout_kind = 'paper'
  # Local response normalization (§3.3): x / (k + alpha * sum x^2)^beta.
  model.lrn = dict(
      enabled=True, n=5, k=2.0, alpha=1e-4, beta=0.75,
      # The authors' code and Caffe divide alpha by n, the paper does not.
      divide_alpha_by_n=False,
      # Whether windows cross the border between the towers, as in Caffe's
      # network. Needs both towers on one device.
      across_towers=False,
  )
  # A second normalization, over pixels, in the authors' code but not the paper.
  model.spatial_norm = dict(
      enabled=False, size=5, k=1.0, alpha=1e-3, beta=0.75
  )
  # Overlapping max pooling (§3.4). The number of windows is rounded up.
  model.pool = dict(window=3, stride=2)
  # Precision of the layers: 'float32' or 'bfloat16'. Parameters, normalization
  # sums and logits are always float32.
  model.dtype = 'float32'
  # Precision of float32 products on GPUs since Ampere: 'tensorfloat32' (10 bits
  # of mantissa, much faster) or 'highest' (float32); see docs/gpus.md. Has no
  # effect on CPUs or with bfloat16.
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
  # The paper has 55 x 55 outputs of conv1 for 224 x 224 images, which takes
  # three rows of zeros; it does not say which.
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
  # Factors for biases. §5 has one rate "for all layers" and decays biases too.
  optimizer.bias_rate_multiplier = 1.0
  optimizer.bias_decay_multiplier = 1.0
  # Factors of learning rates by layer, such as (('conv1', 0.1),); 0 freezes.
  # Paths and patterns name parts of layers: ('conv1/bias', 2.0), ('conv*',
  # 0.1), see alexnet/models/parameters.py. The last match counts.
  optimizer.layer_rate_factors = ()
  # Factors of weight_decay, in the same form. (('*', 0.0), ('*/kernel', 1.0))
  # decays kernels only. ('*/bias', bias_decay_multiplier) is applied before.
  optimizer.layer_decay_factors = ()
  return optimizer


def _schedule():
  schedule = ml_collections.ConfigDict()
  # 'constant', 'plateau' (§5), 'steps' or 'geometric'.
  schedule.name = 'plateau'
  # Initial rate (§5).
  schedule.learning_rate = 0.01
  # Scaling of all learning rates for other batch sizes (docs/scaling.md):
  # 'linear' multiplies by batch_size / reference_batch_size (Goyal et al.
  # 2017), 'sqrt' by its square root (Krizhevsky 2014), 'none' by 1. The rates
  # of this recipe are for the reference batch size. Not in the paper.
  schedule.batch_scaling = 'none'
  schedule.reference_batch_size = 128
  # Epochs of linear warm-up from almost zero (Goyal et al.: 5); 0 disables it.
  schedule.warmup_epochs = 0.0
  # plateau: multiply the rate by `factor` when the validation error has not
  # improved for `patience` evaluations, at most max_drops times. §5: "divide
  # the learning rate by 10 when the validation error rate stopped improving ...
  # reduced three times". The authors chose the moments by eye.
  schedule.plateau = dict(patience=5, factor=0.1, max_drops=3)
  # steps: (epoch, layer or 'all', 'kernel', 'bias' or 'both', rate) sets a rate
  # from that epoch on; the last entry that applies counts. A rate of 0 freezes
  # parameters and their velocity. Also applied on top of 'geometric'. Layers
  # may be paths or patterns as in optimizer.layer_rate_factors; 'both' is then
  # all parameters below them.
  schedule.steps = ()
  # geometric: equal stages over the duration, one factor of the rate each, and
  # a factor of the rates of biases in the second half. In the authors' later
  # runs the factors are 250^0, 250^(-1/3), 250^(-2/3), 250^-1.
  schedule.geometric = dict(
      factors=(1.0, 0.15874, 0.025198, 0.004), bias_factor_half_way=0.1
  )
  return schedule


def _dataset(data):
  dataset = ml_collections.ConfigDict()
  # 'digits', 'folder', 'prepared', 'idx' (files as MNIST's, in `dir`), or a
  # name of TensorFlow Datasets.
  dataset.name = data
  # folder: directories with one subfolder per class. Without eval_dir, a random
  # eval_fraction of train_dir's images is held out.
  dataset.train_dir = placeholder(str)
  dataset.eval_dir = placeholder(str)
  dataset.eval_fraction = 0.1
  # Seed of the choice of held-out images, for folders and digits. Unset:
  # `seed`. Set it to compare or average runs with different seeds.
  dataset.split_seed = placeholder(int)
  # Equal files in a folder of which a part is held out: 'warn' if they are on
  # both sides of the split, or keep them 'together' on one side.
  dataset.copies = 'warn'
  # prepared, idx: the directory. TensorFlow Datasets: its data directory
  # (unset: the package's default) and the splits; 'validation' is 'test' for
  # datasets without one, such as MNIST and CIFAR. If the data directory has
  # prepared/NAME, that is used instead. mnist and fashion_mnist may be IDX
  # files in `dir`; Debian's files of the latter are used if they are installed.
  dataset.dir = placeholder(str)
  dataset.train_split = 'train'
  dataset.eval_split = 'validation'
  # Pixels. The shorter side of images is resized to this, and the centre square
  # is cut out (§2).
  dataset.size = 256
  # Colour channels of the network's input: 3 (RGB), or 1 (grey: ITU-R 601's
  # luma). LeNet-5 reads grey images.
  dataset.channels = 3
  # Rows and columns of black on each side of the square, part of `size`. With
  # 32 pixels and a border of 2, MNIST's 28 x 28 digits stay as they are, as
  # LeCun et al. (1998) have them, where resizing would thicken their strokes.
  dataset.border = 0
  # Background of transparent pixels: red, green and blue, 0..255. Viewers show
  # white. (): the colour stored under them, as in older runs.
  dataset.background = (255, 255, 255)
  # Generator of the order of images, crops and lighting: 'index_shuffle', see
  # input_pipeline/batches/draws.py. Older runs have 'argsort': they can be
  # evaluated, but not continued.
  dataset.order = 'index_shuffle'
  # Directory for the statistics of the training set. Unset: beside the data, or
  # the user's cache directory if that cannot be written.
  dataset.statistics_dir = placeholder(str)
  # Subtracted from every image: 'image', the mean of each pixel over the
  # training set (§2: "the mean activity over the training set from each
  # pixel"); 'channels', its mean colour; or 'imagenet_channels', ImageNet's
  # mean colour, which is built in.
  dataset.mean = 'image'
  # Seconds of reading one image after which a warning names it. Unset: never.
  dataset.stalled_after = 60.0
  # Processes that read images beside this one, for devices that are faster than
  # one process reads (docs/gpus.md). 0: this one reads them.
  dataset.processes = 0
  # Principal components of the colours: 'imagenet' (built in) or 'dataset'.
  dataset.pca = 'imagenet' if data.startswith('imagenet2012') else 'dataset'
  return dataset


def _augmentation():
  augmentation = ml_collections.ConfigDict()
  # Training crops, resized to crop_size where they have another size:
  #   'offsets'  cut at an offset from the square (§4.1)
  #   'scale'    the image's shorter side is resized to a random length of
  #              `scale`, then a square is cut anywhere (VGG, ResNet)
  #   'area'     a random share of the image's area, in `area`, with a random
  #              ratio of width to height, in `aspect` (GoogLeNet)
  # The last two cut from whole images: `prepare` them with --keep_aspect. They
  # need mean_crop='centre'.
  augmentation.crop = 'offsets'
  # Side of the crops that the network sees, in pixels (§4.1).
  augmentation.crop_size = 224
  # Number of crop offsets in each direction (§4.1: 32 * 32 * 2 = 2048 variants
  # of an image).
  augmentation.crop_offsets = 32
  # Black pixels added around the square before a crop is cut at an offset; with
  # mean_crop='under' they are zero after the mean is subtracted. On CIFAR, He
  # et al. (2015, §4.2) have 4: size 32, crop_size 32, crop_offsets 9.
  augmentation.pad = 0
  # Shortest and longest length of the shorter side, in pixels (He et al.,
  # §3.4).
  augmentation.scale = (256, 480)
  # Smallest and largest share of the area, and ratio of width to height, whose
  # logarithm is uniform (Szegedy et al. 2014, §6).
  augmentation.area = (0.08, 1.0)
  augmentation.aspect = (3 / 4, 4 / 3)
  # Mirror images with probability 1/2 (§4.1).
  augmentation.flip = True
  # Consecutive examples that share one offset and one flip.
  augmentation.images_per_crop = 1
  # Part of the mean image that is subtracted from a crop: the part 'under' the
  # crop, or always the 'centre', as ResNet's mean has the size of its crops.
  augmentation.mean_crop = 'under'
  # PCA lighting (§4.1): adds along each principal component N(0,
  # lighting_scale) times its 'eigenvalue' (of pixels in 0..1; in 0..255 it
  # would shift images by 1,500 levels) or 'standard_deviation' (of pixels in
  # 0..255). 'none' disables it.
  augmentation.lighting = 'eigenvalue'
  augmentation.lighting_scale = 0.1
  # Divisor of training images while lighting is on.
  augmentation.lighting_divisor = 1.0
  # Lighting and divisor end at this epoch. Unset: never.
  augmentation.lighting_until_epoch = placeholder(float)
  return augmentation


def _mesh():
  # Devices.
  #   tower  2 puts each tower on its own device
  #   data   number of replicas that share a batch
  # Unset: with two or more accelerators two tower devices, and as many replicas
  # as divide the batch.
  mesh = ml_collections.ConfigDict()
  mesh.tower = placeholder(int)
  mesh.data = placeholder(int)
  return mesh


def adapt_to_digits(config: ml_collections.ConfigDict) -> None:
  """Sets what 1,437 small grey images need instead of a million large ones.

  Expected: more than 95 % top-1 on the 360 held-out digits.
  """
  # A mirrored digit is a different digit, or none.
  config.augmentation.flip = False
  # The only principal component of grey images is brightness.
  config.augmentation.lighting = 'none'
  config.augmentation.lighting_divisor = 1.0
  # With batches of 128 an epoch has only 11 updates.
  config.batch_size = 32
  config.duration = '5 epochs'
  # Run #145's initialization. With the paper's, the logits of different images
  # hardly differ at first, and the loss was still 2.5 after 50 steps.
  for name in ('conv3', 'conv4', 'conv5'):
    config.model[name].stddev = 0.03
  # At the paper's rate of 0.01, batches this small kept the loss between 0.9
  # and 1.9 for 120 steps.
  config.schedule.name = 'geometric'
  config.schedule.learning_rate = 0.005
  config.schedule.reference_batch_size = 32
  config.schedule.geometric.factors = (1.0, 0.3, 0.1, 0.03)
