"""Installs rlx: `pip install -e .`, with the test extras `pip install -e '.[test]'`."""

import setuptools

setuptools.setup(
    name='rlx',
    version='0.1.0',
    description='Reinforcement learning of language-model agents as small pure functions in JAX',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=setuptools.find_packages(include=['rlx', 'rlx.*', 'pallas_kernels', 'pallas_kernels.*']),
    package_data={'rlx': ['*.txtpb']},
    install_requires=[
        'jax>=0.10',
        'flax>=0.12',
        'optax>=0.2.6',
        'orbax-checkpoint>=0.11.30',
        'chex>=0.1.91',
        'ml-collections>=1.1',
        'numpy>=2.0',
        'tokenizers>=0.22',
        'safetensors>=0.6',
        'jinja2>=3.1',
        'tensorboardX>=2.6',
        'tqdm>=4.66',
        'matplotlib>=3.10',
    ],
    extras_require={
        'test': ['pytest>=8', 'pytest-xdist>=3.6', 'nbclient>=0.10', 'nbformat>=5.10', 'ipykernel>=6.29', 'gguf>=0.17'],
        'models': ['gguf>=0.17'],
        'gpu': ['jax[cuda13]>=0.10'],
        'tpu': ['jax[tpu]>=0.10'],
        'aot-tpu': ['jax[tpu]>=0.10'],                                      # compilers alone, for rlx.aot: no device is needed
        'aot-gpu': ['jax-cuda13-plugin>=0.10', 'jax-cuda13-pjrt>=0.10'],
    },
)
