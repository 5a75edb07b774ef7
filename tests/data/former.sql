BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'former');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["score"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'space','"merge_optuna: 1\nmethod: dare_ties\nbase:\n  ref: /former/base\n  name: base\n  digest: 085c36b0389163a7a670f8f2766f4722\nmodels:\n- ref: /former/plain\n  name: 8832b803\n  digest: 8832b803e8d237a7fc444714b7dc5c76\n- ref: /former/lora\n  name: lora\n  digest: e0c137d0ae03fddcbd37b970aa2f5120\n  base:\n    ref: /former/base\n    name: base\n    digest: 085c36b0389163a7a670f8f2766f4722\n- ref: module:memory\n  name: memory\n  digest: b4dbe2eda528f6612fcfc2e725135062\nparameters:\n  weight:\n  - low: 0.1\n    high: 1.0\n  - low: 0.1\n    high: 1.0\n  - low: 0.1\n    high: 1.0\n  density:\n  - low: 0.2\n    high: 0.9\n  - low: 0.2\n    high: 0.9\n  - low: 0.2\n    high: 0.9\n  lambda_: 1.0\n  rescale: density\n  normalize: false\n  elect: mass\n  seed: 0\n"');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_heartbeats" VALUES(1,1,'2026-11-30 14:30:16');
INSERT INTO "trial_heartbeats" VALUES(2,2,'2026-11-30 14:30:25');
INSERT INTO "trial_heartbeats" VALUES(3,3,'2026-11-30 14:30:25');
INSERT INTO "trial_heartbeats" VALUES(4,4,'2026-11-30 14:30:25');
INSERT INTO "trial_heartbeats" VALUES(5,5,'2026-11-30 14:30:25');
INSERT INTO "trial_heartbeats" VALUES(6,6,'2026-11-30 14:30:25');
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'weight/8832b803',8.81942629015211920773e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(2,1,'weight/lora',7.56405700188621632484e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(3,1,'weight/memory',2.52244979203623542751e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(4,1,'density/8832b803',7.58501430790349484567e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(5,1,'density/lora',2.37165718279482851116e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(6,1,'density/memory',6.13945782200927658855e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(7,2,'weight/8832b803',5.40450260823478245697e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(8,2,'weight/lora',8.46637861658107393481e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(9,2,'weight/memory',4.66541742527774139226e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(10,2,'density/8832b803',0.375192214162699,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(11,2,'density/lora',4.45481293087662821861e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(12,2,'density/memory',7.84317069305052294581e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(13,3,'weight/8832b803',1.27087232631648838765e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(14,3,'weight/lora',1.42585201833243829794e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(15,3,'weight/memory',5.66465605965694618539e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(16,3,'density/8832b803',8.77801537833986289527e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(17,3,'density/lora',6.80452678070248229147e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(18,3,'density/memory',3.26182701428672339183e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(19,4,'weight/8832b803',7.21535796692548858644e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(20,4,'weight/lora',3.49027565399373740362e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(21,4,'weight/memory',7.49122299243065614682e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(22,4,'density/8832b803',8.03893571111609750445e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(23,4,'density/lora',5.60922925908517555626e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(24,4,'density/memory',3.57489182891472800918e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(25,5,'weight/8832b803',0.940971314507606,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(26,5,'weight/lora',6.56144259289545450641e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(27,5,'weight/memory',5.91313821452838395131e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(28,5,'density/8832b803',7.44272815218315786367e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(29,5,'density/lora',2.37165718279482851116e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(30,5,'density/memory',5.01602046207616281137e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(31,6,'weight/8832b803',8.27505043594731648504e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(32,6,'weight/lora',8.46637861658107393481e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(33,6,'weight/memory',4.66541742527774139226e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 1.0, "log": false}}');
INSERT INTO "trial_params" VALUES(34,6,'density/8832b803',3.39502607668194344991e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(35,6,'density/lora',4.45481293087662821861e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
INSERT INTO "trial_params" VALUES(36,6,'density/memory',7.84317069305052294581e-01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 0.9, "log": false}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'merge_optuna:claim','{"trial": 0, "population": "07b0922fede1", "generation": 0, "slot": 0, "attempt": 0, "seed": 7, "seen": [], "vectors": {"x": "lcVJ/Q+I6T9AZWgYHy+rPxIQui1Z7OI/fDcUY2rN6z+hFh0kwFbnP0DVXQ4Sp8U/"}, "k": 0, "owner": {"trial": 0, "host": "vm d70aaa06-c166-4691-bce3-5e3ae4f2b241 pid:[4026531836]", "pid": 15915, "start": 323570}, "parents": {}}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'merge_optuna:claim','{"trial": 1, "population": "07b0922fede1", "generation": 0, "slot": 1, "attempt": 0, "seed": 7, "seen": [0], "vectors": {"x": "IAqNuH8E0D9uNP89qnHWP7ZNR98ttuo/eBtg/SZS3z+USgZREIzqP7ILcFSwENo/"}, "k": 0, "owner": {"trial": 1, "host": "vm d70aaa06-c166-4691-bce3-5e3ae4f2b241 pid:[4026531836]", "pid": 15915, "start": 323570}, "parents": {}}');
INSERT INTO "trial_system_attributes" VALUES(3,3,'merge_optuna:claim','{"trial": 2, "population": "07b0922fede1", "generation": 0, "slot": 2, "attempt": 0, "seed": 7, "seen": [1], "vectors": {"x": "dLz17Tb87j8vRzZHq/blP3BLQeLKEsc/IIradLrRnj9QTyZm6zmoPzbJi6TfleA/"}, "k": 0, "owner": {"trial": 2, "host": "vm d70aaa06-c166-4691-bce3-5e3ae4f2b241 pid:[4026531836]", "pid": 15915, "start": 323570}, "parents": {}}');
INSERT INTO "trial_system_attributes" VALUES(4,4,'merge_optuna:claim','{"trial": 3, "population": "07b0922fede1", "generation": 0, "slot": 3, "attempt": 0, "seed": 7, "seen": [2], "vectors": {"x": "Szatukeb6z/lBkdW1H/gP9SCtStLzMw/T+Z0YFsZ5j/q7huSaLXRP2o6N5Z0FOc/"}, "k": 0, "owner": {"trial": 3, "host": "vm d70aaa06-c166-4691-bce3-5e3ae4f2b241 pid:[4026531836]", "pid": 15915, "start": 323570}, "parents": {}}');
INSERT INTO "trial_system_attributes" VALUES(5,5,'merge_optuna:claim','{"trial": 4, "population": "07b0922fede1", "generation": 1, "slot": 0, "attempt": 0, "seed": 7, "seen": [3], "vectors": {"x": "U4VnCIzh6D9AZWgYHy+rPxLTKhk2k9s/vhuKMbXm7T8lr/wMJsbjP+46ci4MeOE/", "F_CR": "wH8CtCrv3z+b1cwOiLjkPw=="}, "k": 0, "owner": {"trial": 4, "host": "vm d70aaa06-c166-4691-bce3-5e3ae4f2b241 pid:[4026531836]", "pid": 15915, "start": 323570}, "parents": {}}');
INSERT INTO "trial_system_attributes" VALUES(6,6,'merge_optuna:claim','{"trial": 5, "population": "07b0922fede1", "generation": 1, "slot": 1, "attempt": 0, "seed": 7, "seen": [4], "vectors": {"x": "IeWZ/FCCyT9uNP89qnHWP7ZNR98ttuo/GPV8nund6T+USgZREIzqP7ILcFSwENo/", "F_CR": "pFYfJ7bn3j/C1tmaQejhPw=="}, "k": 0, "owner": {"trial": 5, "host": "vm d70aaa06-c166-4691-bce3-5e3ae4f2b241 pid:[4026531836]", "pid": 15915, "start": 323570}, "parents": {}}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'seconds_merge','8.051');
INSERT INTO "trial_user_attributes" VALUES(2,1,'seconds_evaluate','0.0004');
INSERT INTO "trial_user_attributes" VALUES(3,1,'examples','1');
INSERT INTO "trial_user_attributes" VALUES(4,2,'seconds_merge','0.0514');
INSERT INTO "trial_user_attributes" VALUES(5,2,'seconds_evaluate','0.0003');
INSERT INTO "trial_user_attributes" VALUES(6,2,'examples','1');
INSERT INTO "trial_user_attributes" VALUES(7,3,'seconds_merge','0.0406');
INSERT INTO "trial_user_attributes" VALUES(8,3,'seconds_evaluate','0.0003');
INSERT INTO "trial_user_attributes" VALUES(9,3,'examples','1');
INSERT INTO "trial_user_attributes" VALUES(10,4,'seconds_merge','0.0423');
INSERT INTO "trial_user_attributes" VALUES(11,4,'seconds_evaluate','0.0003');
INSERT INTO "trial_user_attributes" VALUES(12,4,'examples','1');
INSERT INTO "trial_user_attributes" VALUES(13,5,'seconds_merge','0.0391');
INSERT INTO "trial_user_attributes" VALUES(14,5,'seconds_evaluate','0.0003');
INSERT INTO "trial_user_attributes" VALUES(15,5,'examples','1');
INSERT INTO "trial_user_attributes" VALUES(16,6,'seconds_merge','0.0383');
INSERT INTO "trial_user_attributes" VALUES(17,6,'seconds_evaluate','0.0003');
INSERT INTO "trial_user_attributes" VALUES(18,6,'examples','1');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,-878.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,2550.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,1280.0,'FINITE');
INSERT INTO "trial_values" VALUES(4,4,0,2612.0,'FINITE');
INSERT INTO "trial_values" VALUES(5,5,0,580.0,'FINITE');
INSERT INTO "trial_values" VALUES(6,6,0,2365.0,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-30 14:30:16.704900','2026-11-30 14:30:24.986076');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-30 14:30:25.030324','2026-11-30 14:30:25.158661');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-30 14:30:25.200831','2026-11-30 14:30:25.324593');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-30 14:30:25.358200','2026-11-30 14:30:25.468792');
INSERT INTO "trials" VALUES(5,4,1,'COMPLETE','2026-11-30 14:30:25.518305','2026-11-30 14:30:25.627206');
INSERT INTO "trials" VALUES(6,5,1,'COMPLETE','2026-11-30 14:30:25.670219','2026-11-30 14:30:25.772493');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
