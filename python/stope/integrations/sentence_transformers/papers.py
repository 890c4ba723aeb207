"""BibTeX of the papers behind the forms of the loss, for the model card."""

PAPERS = {
    "infonce": """
@article{oord2018representation,
    title={Representation Learning with Contrastive Predictive Coding},
    author={van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol},
    journal={arXiv preprint arXiv:1807.03748},
    year={2018}
}
""",
    "gist": """
@article{solatorio2024gistembed,
    title={GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding
        Fine-tuning},
    author={Solatorio, Aivin V.},
    journal={arXiv preprint arXiv:2402.16829},
    year={2024}
}
""",
    "grad_cache": """
@article{gao2021scaling,
    title={Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup},
    author={Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie},
    journal={arXiv preprint arXiv:2101.06983},
    year={2021}
}
""",
}
