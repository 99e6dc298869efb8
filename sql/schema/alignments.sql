-- key: model_a, model_b, weight_b, axis, channel_b
-- of: alignments
-- summed: channel_b
CREATE TABLE alignments (
    model_a   VARCHAR NOT NULL,
    model_b   VARCHAR NOT NULL,
    weight_a  VARCHAR NOT NULL,
    weight_b  VARCHAR NOT NULL,
    axis      VARCHAR NOT NULL,
    channel_a INTEGER,
    channel_b INTEGER NOT NULL,
    method    VARCHAR NOT NULL,
    reason    VARCHAR
);

COMMENT ON TABLE alignments IS 'One row per channel of a weight of model b: which channel of model a it is.';
COMMENT ON COLUMN alignments.model_a IS 'The model that is compared with: the original.';
COMMENT ON COLUMN alignments.model_b IS 'The model that came of it.';
COMMENT ON COLUMN alignments.weight_a IS 'Id of the matrix in a; of a weight without matrices its tensor''s name.';
COMMENT ON COLUMN alignments.weight_b IS 'The same in b.';
COMMENT ON COLUMN alignments.axis IS 'out for rows, in for columns.';
COMMENT ON COLUMN alignments.channel_a IS 'Index of the channel of a along the axis, from 0; NULL where unknown.';
COMMENT ON COLUMN alignments.channel_b IS 'Index of the channel of b along the axis, from 0.';
COMMENT ON COLUMN alignments.method IS 'How it was found.';
COMMENT ON COLUMN alignments.reason IS 'What there is to say of it, such as why channels are not known.';
